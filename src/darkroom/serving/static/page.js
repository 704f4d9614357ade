"use strict";

const SHOWN = 10; // number of bars, until the others are requested
const NAMED = 4; // classes of a prediction set
const at = (id) => document.getElementById(id);
let token = ""; // only as long as the page is open
let facts = null; // of /v1/model
let latest = 0; // number of the newest image: answers to older ones are not shown
let waiting = null; // the image held back until the token is given
let asked = null; // the id of the request whose answer is shown
let shown = null; // its image

function authorized(headers = {}) {
  return token ? { ...headers, Authorization: `Bearer ${token}` } : headers;
}

function percent(share) {
  const text = (100 * share).toFixed(1);
  if (share > 0 && text === "0.0") return "< 0.1 %";
  return share < 1 && text === "100.0" ? "> 99.9 %" : `${text} %`;
}

// "cat or dog": of a model with prediction sets the classes among which the true one is, else its label
function either({ label, prediction_set: names = [label] }) {
  const listed = names.slice(0, names.length > NAMED + 1 ? NAMED : names.length);
  const rest = names.length - listed.length;
  if (rest) listed.push(`${rest} others`);
  const last = listed.pop();
  return listed.length ? `${listed.join(", ")} or ${last}` : last;
}

function named(model) {
  return `${model.model}, version ${model.version}`;
}

async function describe() {
  const answer = await fetch("v1/model", { headers: authorized() }).catch(() => null);
  if (answer?.status === 401) return askForToken();
  if (!answer?.ok) return;
  facts = await answer.json();
  at("model").textContent = named(facts);
  const classes = facts.classes.slice(0, 6).join(", ") + (facts.classes.length > 6 ? ", …" : "");
  at("classes").textContent = `The model knows ${facts.classes.length} classes: ${classes}`;
  at("feedback").hidden = !facts.feedback;
  at("known").replaceChildren(...facts.classes.map((name) => new Option("", name)));
}

function askForToken() {
  at("access").hidden = false;
  at("token").focus();
}

function tell({ status = "", problem = "" }) {
  at("status").textContent = status;
  at("status").classList.remove("heard");
  at("problem").textContent = problem;
}

async function classify(file) {
  const mine = ++latest;
  at("result").hidden = true;
  if (facts && file.size > facts.max_body_bytes) {
    tell({ problem: `The image has ${(file.size / 1048576).toFixed(1)} MB; the limit of this server is ${facts.max_body_bytes / 1048576} MB.` });
    return;
  }
  tell({ status: "Classifying the image …" });
  const started = performance.now();
  let answer, body;
  try {
    const headers = authorized({ "Content-Type": "application/octet-stream" });
    answer = await fetch("v1/predict", { method: "POST", body: file, headers });
    body = await answer.json();
  } catch {
    if (mine === latest) tell({ problem: "The server did not answer. Is it running, and are you connected?" });
    return;
  }
  if (mine !== latest) return;
  if (answer.status === 401) {
    waiting = file;
    tell({ problem: token ? "This token is not valid." : "" });
    askForToken();
  } else if (!answer.ok) {
    tell({ problem: `Failed: ${body.error}.` });
  } else {
    show(file, body, performance.now() - started);
  }
}

function show(file, answer, milliseconds) {
  const [prediction] = answer.predictions;
  asked = answer.request_id;
  shown = file;
  at("truth").value = "";
  at("thanks").textContent = "";
  at("why").hidden = !facts?.explain || prediction.unknown;
  at("why").disabled = false;
  at("map").hidden = true;
  at("because").textContent = "";
  const rows = Object.entries(prediction.probabilities).sort((a, b) => b[1] - a[1]);
  const classes = prediction.unknown ? "unknown" : either(prediction);
  const said = classes === prediction.label ? `${classes}, ${percent(prediction.probability)}` : classes;
  tell({ status: `Done: ${said}${prediction.abstained && !prediction.unknown ? ", but not sure" : ""}.` });
  at("status").classList.add("heard"); // who sees the page sees it below
  at("answer").textContent = classes;
  at("unsure").hidden = !prediction.abstained || prediction.unknown;
  at("strange").hidden = !prediction.unknown;
  at("bars").replaceChildren(...rows.slice(0, SHOWN).map(bar));
  const rest = rows.slice(SHOWN);
  at("more").hidden = rest.length === 0;
  at("more").textContent = `Show the other ${rest.length}`;
  at("more").onclick = () => {
    at("bars").append(...rest.map(bar));
    at("more").hidden = true;
    at("answer").focus();
  };
  at("facts").textContent = `Answered by ${named(answer)}, round trip ${milliseconds.toFixed(0)} ms.`;
  at("model").textContent = named(answer); // a promotion may have come since the page was opened
  const preview = at("preview");
  URL.revokeObjectURL(preview.src);
  preview.hidden = false;
  preview.onload = () => preview.classList.toggle("small", preview.naturalWidth < 128);
  preview.onerror = () => (preview.hidden = true); // TIFF: the server reads it, most browsers do not
  preview.alt = `Your image, classified as ${prediction.label}`;
  preview.src = URL.createObjectURL(file);
  at("name").textContent = file.name || "pasted image";
  at("result").hidden = false;
  at("drop").scrollIntoView({ block: "start" }); // on a phone the answer is below the edge of the screen
}

async function explain() {
  const mine = latest;
  at("why").disabled = true; // one map takes hundreds of answers of the network
  at("because").textContent = "Looking for what supports it …";
  const headers = authorized({ "Content-Type": "application/octet-stream" });
  const answer = await fetch("v1/explain", { method: "POST", body: shown, headers }).catch(() => null);
  const said = await answer?.json().catch(() => null);
  if (mine !== latest) return;
  at("why").disabled = false;
  if (!answer?.ok) {
    at("because").textContent = `No map: ${said?.error ?? "the server did not answer"}.`;
    return;
  }
  at("why").hidden = true;
  at("map").src = said.map;
  at("map").alt = `What in your image supports ${said.label}`;
  at("map").hidden = false;
  at("because").textContent = `Bright places support “${said.label}”. The image is shown as the model sees it (${said.method}).`;
}

function bar([label, share]) {
  const row = document.createElement("li");
  const [name, value, track, fill] = ["span", "span", "span", "i"].map((tag) => document.createElement(tag));
  [name.className, value.className, track.className] = ["label", "share", "bar"];
  [name.textContent, value.textContent] = [label, percent(share)];
  track.setAttribute("aria-hidden", "true"); // the number says it
  fill.style.width = `${100 * share}%`;
  track.append(fill);
  row.append(name, value, track);
  return row;
}

function take(files) {
  const [file] = files;
  if (file) classify(file);
}

at("file").addEventListener("change", (event) => {
  take(event.target.files);
  event.target.value = ""; // so that the same file can be chosen again
});
document.addEventListener("paste", (event) => take(event.clipboardData.files));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  at("drop").classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) at("drop").classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  at("drop").classList.remove("over");
  take(event.dataTransfer.files);
});
at("access").addEventListener("submit", (event) => {
  event.preventDefault();
  token = at("token").value.trim();
  at("access").hidden = true;
  tell({});
  describe();
  if (waiting) classify(waiting);
  waiting = null;
});
at("why").addEventListener("click", explain);
at("feedback").addEventListener("submit", async (event) => {
  event.preventDefault();
  const id = asked;
  const body = JSON.stringify({ id, label: at("truth").value.trim() });
  const headers = authorized({ "Content-Type": "application/json" });
  const answer = await fetch("v1/feedback", { method: "POST", body, headers }).catch(() => null);
  const said = await answer?.json().catch(() => null);
  if (id !== asked) return;
  at("thanks").textContent = answer?.ok ? "Stored, thank you." : `Not stored: ${said?.error ?? "the server did not answer"}.`;
});
at("url").textContent = new URL("v1/predict", location.href).href;
describe();

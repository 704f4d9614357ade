"use strict";

const at = (id) => document.getElementById(id);
const secret = location.hash.slice(1); // of the address that the command printed
const address = (row) => `images/${row}?secret=${secret}`;
addEventListener("hashchange", () => location.reload()); // the address of a later review in the same tab
let review = null;
let place = 0;
let made = new Set();
let busy = false;

async function ask(path, body) {
  const headers = { "X-Review": secret };
  const sent = { method: "POST", headers: { ...headers, "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const answer = await fetch(path, body === undefined ? { headers } : sent);
  if (!answer.ok) {
    const said = await answer.text();
    throw new Error(said.startsWith("{") ? JSON.parse(said).detail : said);
  }
  return answer.json();
}

async function start() {
  review = await ask("findings");
  for (const name of review.classes) at("known").append(new Option(name));
  at("then").textContent = review.then;
  made = new Set(review.made);
  next();
}

function next() {
  const rest = review.findings.findIndex((one, number) => number >= place && !made.has(one.row));
  place = rest < 0 ? review.findings.length : rest;
  show();
}

function picture(image, row, alt) {
  image.onload = () => image.classList.toggle("small", image.naturalWidth < 128);
  image.src = address(row);
  image.alt = alt;
}

function show() {
  const all = review.findings;
  const one = all[place];
  const last = made.size ? `, ${made.size} decided` : "";
  at("progress").textContent = all.length ? `${Math.min(place + 1, all.length)} of ${all.length}${last}` : "Nothing was found";
  at("bar").max = Math.max(1, all.length);
  at("bar").value = place;
  at("finding").hidden = !one;
  at("end").hidden = Boolean(one);
  at("undo").disabled = at("back").disabled = made.size === 0;
  close();
  if (!one) return;
  picture(at("image"), one.row, one.label === null ? "An image without a label" : `An image labelled ${one.label}`);
  at("kind").textContent = one.why;
  at("label").textContent = one.label ?? "";
  at("keep").hidden = at("drop").hidden = one.label === null;
  at("suggested").textContent = one.suggested ?? "";
  at("take").hidden = one.suggested === null;
  at("arrow").hidden = one.suggested === null || one.label === null;
  at("keep").querySelector("b").textContent = one.label ?? "";
  at("take").querySelector("b").textContent = one.suggested ?? "";
  const measured = one.split === "test" || one.split === "recent" ? ": a correction changes the measure" : "";
  at("source").textContent = one.split ? `${one.source} (${one.split}${measured})` : one.source;
  at("beside").textContent = one.kind === "twins" ? "The other one" : "Most similar images";
  at("beside").hidden = one.beside.length === 0;
  at("neighbours").replaceChildren(...one.beside.map((other) => {
    const item = document.createElement("li");
    item.className = other.label === one.label ? "" : "other";
    const image = document.createElement("img");
    picture(image, other.row, other.label);
    const name = document.createElement("span");
    name.textContent = other.label;
    item.append(image, name);
    return item;
  }));
  if (all[place + 1]) new Image().src = address(all[place + 1].row);
}

async function guarded(action) {
  if (busy || !review) return;
  busy = true;
  try {
    await action();
    at("problem").textContent = "";
  } catch (error) {
    at("problem").textContent = `Not saved: ${error.message}`;
  } finally {
    busy = false;
  }
}

function decide(label) {
  const one = review?.findings[place];
  if (!one || label === null) return;
  guarded(async () => {
    made = new Set((await ask("decisions", { row: one.row, new: label })).made);
    next();
  });
}

function undo() {
  guarded(async () => {
    const answer = await ask("undo", {});
    made = new Set(answer.made);
    const found = review.findings.findIndex((one) => one.row === answer.row);
    if (found >= 0) place = found;
    show();
  });
}

function skip() {
  if (review && place < review.findings.length) {
    place += 1;
    next();
  }
}

function open() {
  at("classes").hidden = false;
  at("other").setAttribute("aria-expanded", "true");
  at("class").value = "";
  at("class").focus();
}

function close() {
  at("classes").hidden = true;
  at("other").setAttribute("aria-expanded", "false");
}

const KEYS = {
  k: () => decide(review.findings[place]?.label ?? null),
  s: () => decide(review.findings[place]?.suggested ?? null),
  d: () => decide(review.findings[place]?.label == null ? null : "drop"),
  u: undo,
  c: open,
  ArrowRight: skip,
};

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") { close(); at("other").focus(); return; }
  if (!review || event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "INPUT") return;
  const action = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (action) { event.preventDefault(); action(); }
});
at("keep").addEventListener("click", KEYS.k);
at("take").addEventListener("click", KEYS.s);
at("drop").addEventListener("click", KEYS.d);
at("skip").addEventListener("click", skip);
at("undo").addEventListener("click", undo);
at("back").addEventListener("click", undo);
at("other").addEventListener("click", () => (at("classes").hidden ? open() : close()));
at("classes").addEventListener("submit", (event) => {
  event.preventDefault();
  decide(at("class").value);
});

start().catch((error) => { at("problem").textContent = `The findings cannot be read: ${error.message}`; });

"""The model card of a registered version (Mitchell et al. 2019): its use, its evaluation, its limits.

Every sentence follows from a recorded fact.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jinja2

from darkroom.data.arrays.dataset import corrected, split_sizes
from darkroom.evaluation.metrics.prediction_sets import least_calibration_images
from darkroom.files.templates import templates
from darkroom.project.text import ordinal, percent
from darkroom.promotion.gates import in_words

CLASSES_IN_A_ROW = 12  # maximum number in a sentence
CLASSES_IN_TABLE = 50  # maximum number, those with the worst recall
LINEAGE = {
    "git.commit": "Git commit",
    "data.digest": "Training data digest",
    "params.digest": "Params digest",
    "dvc.lock.digest": "dvc.lock digest",
    "test_ids_sha256": "Test images digest",
    "sha256/artifacts/model.onnx": "model.onnx sha256",
}
RESIZED = {
    "stretch": "stretched: the aspect ratio is not kept",
    "letterbox": "with the aspect ratio kept and bars of the background",
    "crop": "with the aspect ratio kept: the middle is taken",
}
COLORS = {"grey": "grey", "rgb": "colour"}


class Card(NamedTuple):
    """A model card as Markdown, as one self-contained HTML page, and as a short summary in Markdown."""

    markdown: str
    html: str
    short: str


def render(
    *,
    name: str,
    version: str,
    created: str,
    model: Mapping[str, Any],
    metrics: Mapping[str, Any],
    promotion: Mapping[str, Any],
    data: Mapping[str, Any],
    source: Mapping[str, Any] | None,
    tags: Mapping[str, str],
    run_id: str | None,
) -> Card:
    """Return the card of a version.

    Args:
        name, version: as registered.
        created: time of registration, ISO 8601.
        model: the metadata of its package: classes, image_shape, color; abstain_below, sets, unknown_below if it has
            them.
        metrics: of the model, from evaluation.json.
        promotion: promotion.json: decision, reasons, champion_before, tests by gate.
        data: manifest.json of the prepared data.
        source: manifest.json of the downloaded data; None if there is none.
        tags: of the version: its lineage.
        run_id: of its training.
    """
    facts = {
        "name": name,
        "version": version,
        "created": created,
        "model": model,
        "metrics": metrics,
        "promotion": promotion,
        "data": data,
        "source": source or {},
        "n_test": sum(data["counts"]["test"].values()),
        "splits": split_sizes(data["counts"]),
        "gates": gates(promotion.get("tests", {})),
        "uses": _uses(model, data["dataset"]),
        "limits": _limits(model, metrics, data, promotion.get("tests", {}).get("champion", {})),
        "classes": _worst_classes(metrics.get("per_class", {})),
        "lineage": {label: tags[key] for key, label in LINEAGE.items() if key in tags},
        "dirty": tags.get("git.dirty") == "true",
        "candidate": tags.get("candidate", ""),
        "run_id": run_id,
    }
    names = ("model_card.md.j2", "model_card.html.j2", "model_card_short.md.j2")
    of_package = environment()
    return Card(*(of_package.get_template(name).render(facts) for name in names))


def _uses(model: Mapping[str, Any], dataset: str) -> list[str]:
    """Return the sentences about the use of the model."""
    classes, (height, width, _) = model["classes"], model["image_shape"]
    return [
        f"It classifies a still image into one of {len(classes)} classes: {_listed(classes)}.",
        f"It expects images like those in the dataset {dataset}. Any size is accepted: images become {width} x "
        f"{height} pixels in {COLORS[model['color']]}, {RESIZED[model.get('resize', 'stretch')]}. Transparent pixels "
        f"show the background colour {model.get('background', [255, 255, 255])} (RGB).",
    ]


def _limits(
    model: Mapping[str, Any], metrics: Mapping[str, Any], data: Mapping[str, Any], comparison: Mapping[str, Any]
) -> list[str]:
    """Return the known limits of the model; `comparison` is that with the champion, if there was one."""
    limits = [*_answers(model, metrics), *_sets(model, metrics), "Details finer than the resized image are lost."]
    if (white := model.get("white_level", 65535)) < 65535:
        limits.append(f"Images of 16 bits must have values up to {white:,}; brighter ones are refused.")
    if model["color"] == "grey":
        limits.append("Colour is ignored: images are converted to grey.")
    worst = _worst_classes(metrics.get("per_class", {}))[:1]
    if worst and worst[0][1]["recall"] < 1:
        label, scores = worst[0]
        limits.append(
            f"It is weakest on {label!r}: recall {scores['recall']:.1%} on {scores['support']:,} test images."
        )
    if "ece" in metrics:
        limits.append(f"Its expected calibration error is {100 * metrics['ece']:.1f} points.")
    if "n_comparisons" in comparison:
        limits.append(
            f"It was chosen by its test images, in the {ordinal(comparison['n_comparisons'])} comparison on this test "
            f"set; corrected for that, its accuracy is {percent(comparison['candidate_accuracy_corrected'])}."
        )
    counts = data["counts"]["test"]
    if few := [label for label in data["classes"] if counts.get(label, 0) < 30]:
        limits.append(f"Fewer than 30 test images for {_listed(few)}: their figures are unreliable.")
    if by_hand := corrected(data):
        limits.append(by_hand)
    measured = "All figures but the recent accuracy were" if metrics["recent"] else "All figures were"
    limits.append(
        f"{measured} measured on {sum(counts.values()):,} test images of {data['dataset']}; accuracy on images from "
        "other sources was not measured."
    )
    return limits


def _answers(model: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[str]:
    """Return the sentences about abstention: the rule, what it guarantees, and what was measured."""
    other = "It knows no other class: an image of anything else gets one of these labels"
    threshold, asked, strange = model.get("abstain_below"), model.get("abstain"), _strange(model, metrics)
    if threshold is None:
        return [f"{other} too{', unless it looks strange' if strange else '. It never abstains'}.", *strange]
    promised = ""
    if asked:
        rate, confidence = 100 * asked["error_rate"], 100 * asked["confidence"]
        promised = f"at most {rate:g} % of its answers are wrong, with {confidence:g} % confidence"
    if threshold > 1:
        shown = f": {asked['n_images']:,} calibration images do not show that {promised}" if asked else ""
        return [f"It never answers: all predictions are marked as abstained{shown}."]
    said = [f"{other}, unless the probability is below {threshold:g}: such predictions are marked as abstained."]
    if asked:
        nearly = "nearly " if asked["by_folds"] else ""
        said.append(f"The threshold was chosen so that {nearly}{promised}, for images like those in the dataset.")
    if metrics.get("error_answered_ci95"):
        answered, wrong = percent(metrics["share_answered"]), percent(metrics["error_answered"])
        low, high = (percent(side) for side in metrics["error_answered_ci95"])
        of_these = f"{wrong} of these answers were wrong (95 % interval {low} to {high})"
        said.append(f"It answered {answered} of the test images, and {of_these}.")
    return [*said, *strange]


def _sets(model: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[str]:
    """Return the sentences about prediction sets: guaranteed and measured coverage; nothing without sets."""
    if (asked := model.get("sets")) is None:
        return []
    nearly, share = "nearly " if asked["by_folds"] else "at least ", 100 * asked["coverage"]
    n_images = asked["n_images"]
    if n_images < least_calibration_images(asked["coverage"]):
        said = [f"Its prediction sets list every class: {n_images} calibration images are too few for {share:g} %."]
    else:
        said = [f"Its prediction sets hold the true class of {nearly}{share:g} % of images like those in the dataset."]
    if "coverage" in metrics:
        low, high = (percent(side) for side in metrics["coverage_ci95"])
        of_test = f"{percent(metrics['coverage'])} of the test images (95 % interval {low} to {high})"
        said.append(f"They did for {of_test}, with {metrics['mean_set_size']:.2f} classes on average.")
    return said


def _strange(model: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[str]:
    """Return the sentences about unknown images: the rule, and the share of test images; nothing if it cannot tell."""
    if (limit := model.get("unknown_below")) is None:
        return []
    rest = 100 - 100 * limit
    said = [f"An image stranger than {rest:g} % of the validation images is marked as unknown, and as abstained."]
    if "share_unknown" in metrics:
        said.append(f"So were {percent(metrics['share_unknown'])} of the test images.")
    return said


def gates(tests: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Return (gate, status, sentence) of every gate."""
    return [
        (in_words(name), str(said.get("status", "")).replace("_", " "), str(said.get("sentence", "")))
        for name, said in tests.items()
    ]


def _worst_classes(per_class: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the classes that have test images, the one with the lowest recall first."""
    tested = [(label, scores) for label, scores in per_class.items() if scores["support"]]
    return sorted(tested, key=lambda item: (item[1]["recall"], item[0]))


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:CLASSES_IN_A_ROW])
    return shown if len(names) <= CLASSES_IN_A_ROW else f"{shown} and {len(names) - CLASSES_IN_A_ROW} more"


def environment() -> jinja2.Environment:
    """Return the templates of this package, with the filters that they use."""
    found = templates("darkroom.promotion")
    found.filters.update(percent=percent, number=_number, md=_markdown)
    found.globals.update(in_table=CLASSES_IN_TABLE, colors=COLORS)
    return found


def _number(value: float, digits: int = 0) -> str:
    return f"{value:,.{digits}f}"


def _markdown(text: object) -> str:
    """Return text on one line, escaped for Markdown and its tables."""
    return re.sub(r"([\\`*_{}\[\]<>#|!~$])", r"\\\1", " ".join(str(text).split()))

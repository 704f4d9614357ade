"""Name a training's run after its differences from the last one of its candidate."""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from darkroom.project.text import in_short, written
from darkroom.tracking.experiments import connect
from darkroom.tracking.pages import run_page
from darkroom.tracking.record import logged
from darkroom.tracking.store import client, store_errors, tracking_uri

IN_A_NAME = 4  # maximum number of differences in a name
OTHERWISE = {"data.digest": "other data", "git.commit": "another commit"}  # if no param differs


def name_run(
    stage: str,
    *,
    experiment: str,
    params: Mapping[str, Any],
    tags: Mapping[str, str],
    tuned: Mapping[str, Any],
) -> tuple[str, str]:
    """Return the name of a new run, and its differences from the last run in Markdown.

    Args:
        stage: prefix of the names of a candidate's runs, such as train-cnn.
        tags: of the new run, returned by lineage_tags.
        tuned: values found by tuning, by dotted key; the first run of a candidate is named after them.

    Raises:
        RegistryError: the store does not answer.
    """
    experiment_id, opened = connect(experiment), client()
    sought = f"tags.`dvc.stage` = '{tags['dvc.stage']}' and tags.candidate = '{tags['candidate']}'"
    with store_errors(tracking_uri()):
        sought = f"{sought} and attributes.status = 'FINISHED'"
        found = opened.search_runs([experiment_id], sought, order_by=["attributes.start_time DESC"], max_results=1)
    if not found:
        said = f"tuned: {listed({}, tuned)}" if tuned else "the first run of this candidate"
        return _named(stage, tuned), said
    last = found[0]
    now, before = logged(params), last.data.params
    keys = [key for key in {**now, **before} if now.get(key) != before.get(key)]
    changed = {key: _value(now[key]) if key in now else "(none)" for key in keys}
    other = [word for tag, word in OTHERWISE.items() if last.data.tags.get(tag) != tags[tag]]
    link = f"[{last.info.run_name}]({run_page(experiment_id, last.info.run_id)})"
    what = listed({key: _value(before[key]) for key in keys if key in before}, changed) if keys else ", ".join(other)
    return _named(stage, changed or other[:1]), f"differs from {link}: {what or 'nothing'}"


def listed(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return `learning_rate` 0.2 → 0.1, ...: settings in Markdown, with the previous value if there is one."""
    return ", ".join(
        f"`{key}` {written(before[key])} → {written(value)}" if key in before else f"`{key}` {written(value)}"
        for key, value in now.items()
    )


def _named(stage: str, what: Mapping[str, Any] | list[str]) -> str:
    if isinstance(what, list):
        return " ".join([stage, *what])
    shown = dict(list(what.items())[:IN_A_NAME])
    more = f"and {len(what) - len(shown)} more" if len(what) > len(shown) else ""
    return " ".join(filter(None, [stage, in_short(shown), more]))


def _value(text: str) -> Any:
    """Return the value that logged() turned into text."""
    with suppress(ValueError):
        return json.loads(text)
    return text

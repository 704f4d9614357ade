"""Register a winner as a version with its lineage, verify it, and store its model card."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from darkroom.files.writing import read_json
from darkroom.project.text import percent
from darkroom.promotion import model_card
from darkroom.promotion.decision import Decision
from darkroom.promotion.gates import parity
from darkroom.promotion.winner import Winner
from darkroom.registry import aliases, register
from darkroom.registry.snapshot import Registered, Version
from darkroom.registry.versions import damage, load
from darkroom.tracking import restored, runs
from darkroom.tracking.provenance import LINEAGE, lineage_tags, lock_digest

N_VERIFIED = 64  # test images on which the registered version must reproduce the evaluation
PARITY = "max_parity_difference"  # the gate that needs a registered version


def register_winner(name: str, winner: Winner, *, lock: Path, again: bool) -> Version:
    """Register the winner as a version of the model `name`, with the lineage of its training, and return it.

    Args:
        lock: dvc.lock, with the inputs of every stage.
        again: log the model again, because files of its version are lost.
    """
    trained = read_json(winner.onnx.with_name("run.json"))
    lineage = lineage_tags(
        data_digest=trained["data_digest"], params_digest=trained["params_digest"], candidate=winner.name
    ) | {"git.commit": trained["git_commit"], "git.dirty": str(trained["git_dirty"]).lower()}
    options: dict[str, Any] = {
        "experiment": trained["experiment"],
        "onnx_path": winner.onnx,
        "seen": winner.seen,
        "tags": lineage,
    }
    model_uri, run_tags = (
        restored.log_model(trained["run_id"], **options)
        if again
        else restored.find_or_log_model(trained["model_uri"], run_id=trained["run_id"], **options)
    )
    return register.register(
        name,
        model_uri=model_uri,
        model_sha256=winner.model_sha256,
        tags={
            **lineage,
            **{key: run_tags[key] for key in LINEAGE if key in run_tags},
            "dvc.lock.digest": lock_digest(lock),
            "test_accuracy": str(winner.metrics["test_accuracy"]),
            "test_ids_sha256": winner.test_ids_sha256,
            "test_labels_sha256": winner.test_labels_sha256,
        },
    )


def verified(version: Version, winner: Winner, decision: Decision, *, limit: float | None) -> Decision:
    """Return the decision with the verdict of the parity gate: the version reproduces the evaluation.

    Args:
        limit: maximum difference of a probability; None: not checked.

    Raises:
        RegistryError: the version cannot be loaded, or does not reproduce the evaluation.
    """
    if limit is None:
        return decision
    answers = winner.answers("test")
    dataset, rows = winner.images(answers)
    rows = rows[:N_VERIFIED]
    expected = answers.probabilities[:N_VERIFIED]
    difference = register.verify(version, dataset.images[rows], expected, tolerance=limit)
    proof = parity(difference, limit=limit, n_images=len(rows)).as_dict()
    return replace(decision, tests={**decision.tests, PARITY: proof})


def awaits_approval(version: Version, registered: Registered, decision: Decision) -> bool:
    """Return whether the version already waits as challenger of the present champion, and was verified."""
    return _challenger(registered) == version and decision.tests[PARITY]["status"] in ("passed", "off")


def waiting(registered: Registered) -> Version | None:
    """Return the version that could be approved now, None if there is none."""
    version = _challenger(registered)
    return version if version and not damage(version) else None


def _challenger(registered: Registered) -> Version | None:
    """Return the challenger of the present champion, None if there is none or it challenged an earlier one."""
    version = registered.under("challenger")
    against = registered.aliases.get("champion", aliases.NOBODY)
    if version is None or aliases.ROLLED_BACK in version.tags:
        return None
    return version if version.tags.get(aliases.AGAINST) == against else None


def store_card(version: Version, winner: Winner, promotion: dict[str, Any]) -> None:
    """Store the model card of a version before its aliases are moved.

    Args:
        promotion: the future contents of reports/promotion.json.
    """
    downloaded = winner.raw / "manifest.json"
    card = model_card.render(
        name=version.name,
        version=version.version,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        model=load(version).metadata,
        metrics=winner.metrics,
        promotion=promotion | {"decision": "passed_all_gates"},  # whether it becomes champion is not known yet
        data=read_json(winner.prepared / "manifest.json"),
        source=read_json(downloaded) if downloaded.is_file() else None,
        tags=version.tags,
        run_id=version.run_id,
    )
    heading, _, rest = card.short.partition("\n\n")
    description = "\n\n".join([heading, _figures(winner, version), rest])
    register.store_card(version, markdown=card.markdown, html=card.html, description=description)


def _figures(winner: Winner, version: Version) -> str:
    """Return what MLflow's page of a version lacks: figures, and links to run, report and card."""
    metrics, trained = winner.metrics, read_json(winner.onnx.with_name("run.json"))
    shown = {
        "Validation accuracy": percent(trained.get("val_accuracy")),
        "Macro F1": percent(metrics.get("macro_f1")),
        "Calibration error": percent(metrics.get("ece")),
        "Latency": f"{metrics['latency_ms_p50']:.2f} ms" if "latency_ms_p50" in metrics else "–",
        "model.onnx": f"{metrics['model_bytes'] / 1e6:.2f} MB" if "model_bytes" in metrics else "–",
    }
    table = [f"| {' | '.join(row)} |" for row in (shown, ["---"] * len(shown), shown.values())]
    links = [f"commit `{version.tags.get('git.commit', 'unknown')[:12]}`"]
    with runs.reopen_if_known(version.run_id) as run:
        if run:
            card = run.page(f"model_card/{version.name}-{version.version}/model_card.html")
            links += [f"[{label}]({run.page(path)})" for label, path in (("run", ""), ("report", "evaluation.html"))]
            links.append(f"[model card]({card})")
    return "\n".join([*table, "", ", ".join(links)])

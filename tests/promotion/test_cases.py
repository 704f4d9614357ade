from dataclasses import replace

import pytest

from darkroom.promotion.cases import Case
from darkroom.promotion.decision import Decision
from darkroom.promotion.params import Gates
from darkroom.promotion.winner import Winner
from darkroom.registry.comparisons import REFERENCE
from darkroom.registry.snapshot import MODEL_FILE, SHA256, Registered, Version

GATES = Gates.model_validate(dict.fromkeys(Gates.model_fields))
CHAMPION = Version("pets", "1", None, "somewhere", {f"{SHA256}{MODEL_FILE}": "a" * 64, "test_ids_sha256": "b" * 64})


@pytest.fixture
def winner(tmp_path, monkeypatch):
    """A winner in a repository, of which every new decision has the next number as its reason."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    (tmp_path / "prepared").mkdir()
    paths = {"onnx": "model.onnx", "predictions": "predictions.parquet"}
    for name in (*paths.values(), "seen_ids.npy", "prepared/manifest.json", "prepared/index.parquet"):
        (tmp_path / name).write_text(name)
    numbers = iter(range(100))
    monkeypatch.setattr(Case, "_decide", lambda _: Decision(False, [str(next(numbers))], {}))
    monkeypatch.setattr(Case, "_count", lambda _, decision: counted.append(decision.reasons[0]))
    counted.clear()
    return Winner(
        name="cnn",
        metrics={"ece": 0.1},
        test_ids_sha256="c" * 64,
        **{field: tmp_path / name for field, name in paths.items()},
        prepared=tmp_path / "prepared",
        raw=tmp_path / "raw",
        incoming=tmp_path / "incoming",
    )


counted: list[str] = []  # reasons of the decisions that were counted


def case(winner, *, champion=CHAMPION, gates=GATES, others=()):
    versions = {version.version: version for version in others}
    return Case(replace(winner), champion, gates, registered=Registered("pets", versions=versions))


def reason(winner, *, champion=CHAMPION, gates=GATES):
    return case(winner, champion=champion, gates=gates).decision(counts=True).reasons


def test_a_case_is_decided_once(winner):
    assert reason(winner) == ["0"]
    assert reason(winner) == ["0"]


@pytest.mark.parametrize(
    "file", ["model.onnx", "seen_ids.npy", "predictions.parquet", "prepared/manifest.json", "prepared/index.parquet"]
)
def test_another_file_is_another_case(winner, file):
    assert reason(winner) == ["0"]
    (winner.onnx.parent / file).write_text("other")
    assert reason(winner) == ["1"]


@pytest.mark.parametrize("change", [{"metrics": {"ece": 0.2}}, {"test_ids_sha256": "d" * 64}])
def test_another_evaluation_is_another_case(winner, change):
    assert reason(winner) == ["0"]
    assert reason(replace(winner, **change)) == ["1"]


@pytest.mark.parametrize(
    "champion",
    [
        None,
        replace(CHAMPION, version="2"),
        replace(CHAMPION, tags={**CHAMPION.tags, f"{SHA256}{MODEL_FILE}": "e" * 64}),
        replace(CHAMPION, tags={**CHAMPION.tags, "test_ids_sha256": "e" * 64}),
    ],
)
def test_another_champion_is_another_case_another_note_is_not(winner, champion):
    assert reason(winner) == ["0"]
    assert reason(winner, champion=champion) == ["1"]
    noted = {**CHAMPION.tags, "mlflow.note": "seen"}
    assert reason(winner, champion=replace(CHAMPION, tags=noted)) == ["0"]


def test_other_gates_are_another_case(winner):
    assert reason(winner) == ["0"]
    assert reason(winner, gates=GATES.model_copy(update={"max_ece": 0.5})) == ["1"]


def test_a_decision_is_counted_once_and_not_for_a_trial(winner):
    for counts, expected in ((False, []), (False, []), (True, ["0"]), (True, ["0"]), (False, ["0"])):
        assert case(winner).decision(counts=counts).reasons == ["0"]
        assert counted == expected


def test_a_decision_kept_later_replaces_the_first(winner):
    first = case(winner)
    decided = first.decision(counts=True)
    first.keep(replace(decided, promote=True, tests={"max_parity_difference": {"status": "passed"}}))
    again = case(winner).decision(counts=True)
    assert (again.promote, again.tests["max_parity_difference"]["status"]) == (True, "passed")


def test_a_reference_matters_where_there_is_a_margin(winner):
    first = replace(CHAMPION, version="1")
    champion = replace(CHAMPION, version="2", tags={**CHAMPION.tags, REFERENCE: "1"})
    rule = {"statistic": "accuracy", "margin": 0.01, "alpha": 0.05, "comparisons": 1}
    gates = Gates.model_validate({**GATES.model_dump(), "champion": rule})
    with_margin = case(winner, champion=champion, gates=gates, others=[first])
    assert with_margin.reference == first
    assert case(winner, champion=champion, others=[first]).reference is None
    other = replace(first, tags={f"{SHA256}{MODEL_FILE}": "e" * 64})
    assert with_margin.decision(counts=True).reasons == ["0"]
    assert case(winner, champion=champion, gates=gates, others=[other]).decision(counts=True).reasons == ["1"]

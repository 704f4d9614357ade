import os
from pathlib import Path

import pytest

from darkroom.errors import DataError, ParamsError
from darkroom.tuning import location


@pytest.fixture(autouse=True)
def _root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv(location.STORAGE, raising=False)


def test_params_come_before_environment_and_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert location.storage_of(None, study="s") == str(tmp_path / ".darkroom" / "tuning" / "s.journal")
    monkeypatch.setenv(location.STORAGE, "postgresql://host/db")
    assert location.storage_of(None, study="s") == "postgresql://host/db"
    assert location.storage_of("grpc://host:1", study="s") == "grpc://host:1"


def test_the_study_of_a_candidates_last_tuning_is_remembered() -> None:
    location.point_at("cnn", study="s", n_trials=3)
    assert location.pointed_at("cnn") == {"study": "s", "trials": 3, "values": {}}
    with pytest.raises(DataError, match="'transfer' has not been tuned here yet; set tune.trials .*; tuned: cnn$"):
        location.pointed_at("transfer")


def test_the_candidate_that_was_tuned_last_is_known(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="^no candidate has been tuned here yet; set tune.trials above 0"):
        location.last_tuned()
    for number, candidate in enumerate(("transfer", "cnn")):
        location.point_at(candidate, study="s", n_trials=3)
        os.utime(tmp_path / ".darkroom" / "tuning" / f"{candidate}.json", ns=(number, number))
    (tmp_path / ".darkroom" / "tuning" / ".0a1b-dnn.json").touch()  # left by a kill while it was written
    assert location.last_tuned() == "cnn"


def test_chosen_values_are_remembered_until_they_are_dropped() -> None:
    assert location.drop_values("cnn") == {}
    location.point_at("cnn", study="s", n_trials=3, values={"learning_rate": 0.1})
    location.point_at("cnn", study="t", n_trials=4)
    assert location.drop_values("cnn") == {"study": "t", "trials": 4, "values": {"learning_rate": 0.1}}
    assert location.drop_values("cnn") == {}
    assert location.pointed_at("cnn")["study"] == "t"


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        (
            "postgresql://u:secret@host/db",
            r"u:\*\*\*@host/db, which contains a password.* variable DARKROOM_TUNING_STORAGE",
        ),
        ("postgresql://u@host/db?password=secret", r"password=\*\*\*, which contains a password"),
        ("studies.db", r"storage is 'studies.db'; expected null, the URL of a database"),
    ],
)
def test_a_storage_with_a_password_or_no_scheme_is_refused(storage: str, message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        location.check_storage(storage)

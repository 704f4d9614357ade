import subprocess
import sys

import pytest

from darkroom.errors import LockedError
from darkroom.operations.single_flight import single_flight

HOLD = """
from darkroom.operations.single_flight import single_flight
with single_flight("darkroom retrain"):
    print("held", flush=True)
    input()
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path


def test_who_finds_the_lock_held_is_told_by_whom_and_since_when(root):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        said = rf"`darkroom retrain` of .+@.+ \(process {holder.pid}\) has been running since 20.+ \(0 minutes\); try"
        with pytest.raises(LockedError, match=said) as raised, single_flight("darkroom gc"):
            pass
        assert raised.value.exit_code == 75
        holder.kill()
    with single_flight("darkroom gc") as owner:  # the kernel freed it
        assert owner["what"] == "darkroom gc"


def test_a_lock_held_by_the_work_itself_is_another(root):
    with pytest.raises(LockedError, match="the registry of pets"), single_flight("darkroom retrain"):
        raise LockedError("the registry of pets was held by somebody")

"""Training on data that do not fit into the available memory, because they stay on disk."""

import sys

import pytest

from benchmarks.linear import beyond_ram

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA covers mapped memory on Linux only"),
]


def test_training_reads_pictures_of_twice_the_memory_left(tmp_path):
    said = beyond_ram(tmp_path, data_gb=0.27, headroom_mb=128)
    assert said["trained"]
    assert not said["data_fit_into_memory"]  # so the limit was one
    assert said["data_mb"] >= 2 * 128

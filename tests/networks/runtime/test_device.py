"""Choice of device, precision and number of devices. Most tests fake GPUs; none of them computes anything."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from darkroom.errors import ParamsError, TrainingError
from darkroom.networks.runtime import device, distribution, memory
from darkroom.networks.runtime.device import Gpu
from tests.support.project import ROOT

H100, T4 = Gpu("NVIDIA H100", (9, 0)), Gpu("Tesla T4", (7, 5))
MI300 = Gpu("AMD Instinct MI300X", None)


def with_device(monkeypatch: pytest.MonkeyPatch, *gpus: Gpu, cpu_has_bfloat16: bool = True) -> None:
    monkeypatch.setattr(device, "gpus", lambda: list(gpus))
    monkeypatch.setattr(device, "_cpu_has_bfloat16", lambda: cpu_has_bfloat16)


def in_a_process(code: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("KERAS", "XLA", "DARKROOM"))}
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**inherited, "PYTHONPATH": str(ROOT / "src"), "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
    )


def test_a_cpu_announces_whether_it_computes_in_bfloat16(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("model name\t: Some CPU @ 2.0GHz\nflags : fpu avx2 avx512f\n")
    assert not device._cpu_has_bfloat16(cpuinfo)
    assert device._cpu_name(cpuinfo) == "Some CPU @ 2.0GHz"
    for flag in ("avx512_bf16", "amx_bf16"):
        cpuinfo.write_text(f"flags : fpu avx2 {flag}\n")
        assert device._cpu_has_bfloat16(cpuinfo)
    assert not device._cpu_has_bfloat16(tmp_path / "absent")
    assert device._cpu_name(tmp_path / "absent") == "unknown model"


def test_auto_precision_follows_what_the_device_computes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    for gpus, of_cpu, expected in [
        ([], True, "mixed_bfloat16"),
        ([], False, "float32"),
        ([T4], True, "float32"),
        ([H100], False, "mixed_bfloat16"),
        ([H100, T4], True, "float32"),
        ([MI300], False, "mixed_bfloat16"),
    ]:
        with_device(monkeypatch, *gpus, cpu_has_bfloat16=of_cpu)
        assert device.policy("auto") == expected, gpus


def test_auto_precision_is_float32_for_a_light_backbone_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    with_device(monkeypatch, cpu_has_bfloat16=True)
    assert device.policy("auto", is_light=True) == "float32"
    assert device.policy("bfloat16", is_light=True) == "mixed_bfloat16"
    with_device(monkeypatch, H100, cpu_has_bfloat16=True)
    assert device.policy("auto", is_light=True) == "mixed_bfloat16"


def test_a_precision_is_refused_on_a_device_that_lacks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with_device(monkeypatch, T4)
    assert device.policy("float16") == "mixed_float16"
    with pytest.raises(
        ParamsError, match=r"this device \(Tesla T4\) does not support precision bfloat16; set it to auto"
    ):
        device.policy("bfloat16")
    with_device(monkeypatch, cpu_has_bfloat16=False)
    assert device.policy("float32") == "float32"
    with pytest.raises(ParamsError, match="precision float16 needs a GPU, and none was found; set it to auto"):
        device.policy("float16")
    with pytest.raises(ParamsError, match="this device .* does not support precision bfloat16"):
        device.policy("bfloat16")
    with pytest.raises(ParamsError, match="precision is 'fp8', expected one of auto, float32, bfloat16, float16"):
        device.policy("fp8")


def test_an_unknown_device_is_refused_before_keras_is_loaded() -> None:
    done = in_a_process(
        "import sys\nfrom darkroom.networks.runtime import device, distribution\n"
        "try:\n    device.prepare('tpu')\n"
        "except device.ParamsError as error:\n    print(error, 'keras' in sys.modules)\n"
    )
    assert done.stdout == "compute.device is 'tpu', expected one of auto, cpu, gpu False\n", done.stderr


def test_compute_capabilities_are_read_as_numbers() -> None:
    assert device._version("9.0") == (9, 0)
    assert device._version("12.1") == (12, 1)
    assert device._version("gfx90a") is None


def test_an_error_of_memory_is_known_on_every_backend() -> None:
    kinds = {name: type(name, (Exception,), {}) for name in ("ResourceExhaustedError", "OutOfMemoryError", "JaxError")}
    assert memory.is_out_of_memory(kinds["ResourceExhaustedError"]("OOM when allocating tensor"))  # TensorFlow
    assert memory.is_out_of_memory(kinds["OutOfMemoryError"]("CUDA out of memory"))  # PyTorch
    assert memory.is_out_of_memory(kinds["JaxError"]("RESOURCE_EXHAUSTED: Out of memory while trying to allocate"))
    assert memory.is_out_of_memory(MemoryError())
    assert not memory.is_out_of_memory(ValueError("shapes do not match"))


def test_cusolver_is_loaded_from_its_package_after_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"cusolver": "libcusolver.so.11", "cublas": "libcublas.so.12", "cusparse": "libcusparse.so.12"}
    for package, name in {**names, "nvjitlink": "libnvJitLink.so.12", "cudnn": "libcudnn.so.9"}.items():
        library = tmp_path / "nvidia" / package / "lib" / name
        library.parent.mkdir(parents=True)
        library.write_bytes(b"no library")
    monkeypatch.syspath_prepend(tmp_path)
    loaded: list[str] = []
    monkeypatch.setattr(device, "_load", lambda library: loaded.append(library.name))
    device._preload_cusolver()
    assert loaded == ["libnvJitLink.so.12", "libcublas.so.12", "libcusparse.so.12", "libcusolver.so.11"]


def test_a_library_that_cannot_be_loaded_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "libcusolver.so.11").write_bytes(b"no library")
    device._load(tmp_path / "libcusolver.so.11")


@pytest.mark.heavy
def test_a_missing_gpu_is_an_error_and_auto_takes_the_cpu() -> None:
    done = in_a_process(
        "from darkroom.networks.runtime import device, distribution\n"
        "print(device.prepare('auto'))\n"
        "print(distribution.n_devices(), type(distribution.distribution()).__name__)\n"
        "try:\n    device.prepare('gpu')\n"
        "except device.TrainingError as error:\n    print(error)\n",
        CUDA_VISIBLE_DEVICES="",
    )
    described, distribution, refused = done.stdout.splitlines()
    assert described.startswith("CPU, ")
    assert described.endswith(" cores (tensorflow)")
    assert distribution == "1 nullcontext"
    assert refused.startswith("compute.device is gpu, but tensorflow found no GPU (")
    assert "check nvidia-smi" in refused
    assert "or set compute.device to auto" in refused


@pytest.mark.heavy
def test_a_device_that_is_chosen_too_late_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_late(*, hide: bool) -> None:
        raise RuntimeError("Visible devices cannot be modified after being initialized")

    monkeypatch.setattr(device, "_prepare_tensorflow", too_late)
    with pytest.raises(
        TrainingError, match="compute.device cpu cannot be set any more: Visible .*; start a new process"
    ):
        device.prepare("cpu")


def test_gpus_are_named_and_counted() -> None:
    assert device.describe([H100, H100, T4], backend="jax") == "2 x NVIDIA H100, Tesla T4 (jax)"


def test_batches_that_the_devices_cannot_share_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distribution, "n_devices", lambda: 4)
    distribution.check_batch_size(64)
    with pytest.raises(
        ParamsError, match="batch_size is 50, which cannot be divided among 4 devices; set it to a multiple of 4"
    ):
        distribution.check_batch_size(50)


def assert_two_devices_learn_what_one_learns(**environment: str) -> None:
    """With all that optimizers share, and with Muon: see two_devices.py."""
    script = str(ROOT / "tests" / "support" / "two_devices.py")
    done = in_a_process(f"import runpy; runpy.run_path({script!r}, run_name='__main__')", **environment)
    assert done.returncode == 0, done.stderr[-2000:]
    results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [result["n_devices"] for result in results] == [2, 2]
    assert max(max(result["of_weights"], result["of_loss"]) for result in results) < 1e-5, results


@pytest.mark.heavy
def test_two_devices_of_tensorflow_learn_what_one_learns() -> None:
    assert_two_devices_learn_what_one_learns(KERAS_BACKEND="tensorflow")


@pytest.mark.heavy
@pytest.mark.slow
def test_two_devices_of_jax_learn_what_one_learns() -> None:
    pytest.importorskip("jax", reason="JAX is not installed; it is part of the extra dev")
    flags = "--xla_force_host_platform_device_count=2"
    assert_two_devices_learn_what_one_learns(KERAS_BACKEND="jax", XLA_FLAGS=flags)


@pytest.mark.heavy
def test_of_a_network_that_is_forgotten_no_graph_stays_in_memory() -> None:
    import gc

    import keras
    import numpy as np
    from tensorflow.python.framework.func_graph import FuncGraph

    def n_graphs_after_a_training() -> int:
        network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        network.compile("sgd", "mse")
        network.fit(np.zeros((4, 2)), np.zeros((4, 1)), verbose=0)
        del network
        memory.forget_networks()
        return sum(type(found) is FuncGraph for found in gc.get_objects())

    assert n_graphs_after_a_training() == n_graphs_after_a_training()

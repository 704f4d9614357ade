"""Choose the device and the precision. Loads no library until needed."""

import ctypes
import importlib
import importlib.util
import os
from pathlib import Path
from typing import NamedTuple

from darkroom.deployable.machine import usable_cores
from darkroom.errors import ParamsError, TrainingError

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "gpu")
AMPERE = (8, 0)  # compute capability of NVIDIA's first GPUs that compute in bfloat16


class Gpu(NamedTuple):
    """A GPU that the backend can use; its compute capability is NVIDIA's, None for other makers."""

    name: str
    capability: tuple[int, int] | None

    @property
    def has_bfloat16(self) -> bool:
        return self.capability is None or self.capability >= AMPERE


def prepare(device: str = "auto") -> str:
    """Set up the device that Keras will compute on and return its description: "NVIDIA H100 80GB HBM3 (tensorflow)".

    Call it before Keras computes anything. GPU memory is allocated as needed, not all at once, so that other processes
    can use the GPU too.

    Args:
        device: gpu, cpu (GPUs are hidden), or auto: GPUs if there are any.

    Raises:
        ParamsError: unknown device.
        TrainingError: device is gpu and none is found, or Keras has begun to compute elsewhere.
    """
    if device not in DEVICES:
        raise ParamsError(f"compute.device is {device!r}, expected one of {', '.join(DEVICES)}")
    if device != "cpu":
        _preload_cusolver()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # JAX: allocate memory as needed
    import keras

    backend = keras.backend.backend()
    try:
        if backend == "tensorflow":
            _prepare_tensorflow(hide=device == "cpu")
        elif backend == "jax" and device == "cpu":
            import jax

            jax.config.update("jax_platforms", "cpu")
    except RuntimeError as error:  # TensorFlow: devices cannot be modified after being initialized
        raise TrainingError(f"compute.device {device} cannot be set any more: {error}; start a new process") from None
    found = [] if device == "cpu" else gpus()
    if device == "gpu" and not found:
        raise TrainingError(
            f"compute.device is gpu, but {backend} found no GPU ({_driver()}); check nvidia-smi, the CUDA libraries "
            "(pip "
            "install 'tensorflow[and-cuda]' or 'jax[cuda12]'), or set compute.device to auto"
        )
    return describe(found, backend=backend)


def describe(found: list[Gpu], *, backend: str) -> str:
    """Return the GPUs, or the CPU if there are none, and the backend, in words."""
    names = [gpu.name for gpu in found] or [f"CPU, {_cpu_name()}, {usable_cores()} cores"]
    counted = [f"{names.count(name)} x {name}" if names.count(name) > 1 else name for name in dict.fromkeys(names)]
    return f"{', '.join(counted)} ({backend})"


def _prepare_tensorflow(*, hide: bool) -> None:
    import tensorflow as tf  # Keras has no call for visible devices or memory growth

    if usable_cores() < (os.cpu_count() or 1) and "TF_NUM_INTRAOP_THREADS" not in os.environ:
        tf.config.threading.set_intra_op_parallelism_threads(usable_cores())  # TensorFlow ignores CPU quotas
    if hide:
        tf.config.set_visible_devices([], "GPU")
    for gpu in tf.config.get_visible_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)


def _preload_cusolver() -> None:
    """Load cuSOLVER of the package nvidia-cusolver-cu12, if it is there.

    TensorFlow 2.21 does not find it in that package, and then uses no GPU at all.
    """
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for package in ("nvjitlink", "cublas", "cusparse", "cusolver"):  # the last depends on the others
            for library in sorted(Path(folder, package, "lib").glob("lib*.so.*")):
                if library.name.startswith((f"lib{package}", "libnvJitLink")):
                    _load(library)


def _load(library: Path) -> None:
    try:
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    except OSError:  # a machine without a driver: then no GPU is found, which prepare() reports
        return


def gpus() -> list[Gpu]:
    """Return the GPUs that Keras' backend may use."""
    import keras

    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf  # Keras has no call for a device's name or compute capability

        details = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.get_visible_devices("GPU")]
        return [Gpu(detail.get("device_name", "GPU"), detail.get("compute_capability")) for detail in details]
    if backend == "jax":
        import jax  # likewise

        found = [device for device in jax.devices() if device.platform == "gpu"]
        return [Gpu(device.device_kind, _version(getattr(device, "compute_capability", ""))) for device in found]
    if backend == "torch":
        cuda = importlib.import_module("torch").cuda
        return [Gpu(cuda.get_device_name(i), cuda.get_device_capability(i)) for i in range(cuda.device_count())]
    return []


def _version(text: str) -> tuple[int, int] | None:
    major, _, minor = str(text).partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None


def _driver(version: Path = Path("/proc/driver/nvidia/version")) -> str:
    return "the NVIDIA driver is loaded" if version.exists() else "no NVIDIA driver is loaded"


def _cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown model"


def _cpu_has_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    flags = cpuinfo.read_text() if cpuinfo.exists() else ""
    return "amx_bf16" in flags or "avx512_bf16" in flags


def policy(precision: str, *, is_light: bool = False) -> str:
    """Return the Keras dtype policy for a precision; "auto" is bfloat16 if the device supports it, else float32.

    On a CPU "auto" is float32 for a light backbone (see backbones.table.Backbone.is_light). CPUs with AMX or
    AVX512-BF16 and NVIDIA GPUs since Ampere support bfloat16. If there is a GPU, only the GPU decides. float16 needs a
    GPU, and optimizers.make_optimizer(loss_scaling=True).

    Raises:
        ParamsError: unknown precision, or one that the device does not support.
    """
    if precision not in PRECISIONS:
        raise ParamsError(f"precision is {precision!r}, expected one of {', '.join(PRECISIONS)}")
    if precision == "float32":
        return precision
    found = gpus()
    has_bfloat16 = all(gpu.has_bfloat16 for gpu in found) if found else _cpu_has_bfloat16()
    if precision == "auto":
        return "mixed_bfloat16" if has_bfloat16 and (found or not is_light) else "float32"
    if precision == "float16" and not found:
        raise ParamsError("precision float16 needs a GPU, and none was found; set it to auto or float32")
    if precision == "bfloat16" and not has_bfloat16:
        lacking = next((gpu.name for gpu in found if not gpu.has_bfloat16), _cpu_name())
        raise ParamsError(f"this device ({lacking}) does not support precision bfloat16; set it to auto or float32")
    return f"mixed_{precision}"

"""Build albumentations pipelines from params, with random draws that depend only on seed, image and copy.

Every random number of a copy is a function of (seed, image id, copy), so the pixels do not depend on the number of
workers, the order of the images or what was drawn before.
"""

import hashlib
import inspect
import os
import random
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from pydantic import ValidationError

from darkroom.errors import ParamsError
from darkroom.project.text import did_you_mean

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # otherwise importing albumentations checks PyPI for a newer version

if TYPE_CHECKING:
    from albumentations import BasicTransform, Compose

Transforms = Sequence[Mapping[str, Mapping[str, Any] | None]]

_PROBES = 4  # calls per transform in build(), about 1 ms, to find changes of shape that depend on a draw
_ANY_SHAPE = (64, 64)  # in place of the image size, which `check` does not know


def build(transforms: Transforms, *, image_shape: tuple[int, int, int]) -> "Compose":
    """Return the albumentations pipeline of a list of {Name: {argument: value}}, applied in this order.

    Any transform of albumentations that needs only the image and keeps its shape is allowed, with the arguments of
    its own documentation (`p`, the probability, is 0.5 by default), and so are OneOf, SomeOf, RandomOrder and
    Sequential, whose `transforms` is again such a list. Draw with augment_image(), which sets the random state.

    Args:
        transforms: as in params.yaml; may be empty. "auto" as size, height or width means that of the images.
        image_shape: (H, W, C) of the images; each transform is tried on noise of this shape.

    Raises:
        ParamsError: a name or an argument is unknown, a value has the wrong type or range, or a transform needs more
            than the image, or changes its shape or type.
    """
    import albumentations

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice to use another transform; mistakes are errors below
        steps = _steps(transforms, where="augment.transforms", probe=_noise(image_shape))
        pipeline = albumentations.Compose(steps, is_check_shapes=False)  # 3 us per image, needless for one image
    # One pair of generators for all transforms: setting their states sets the state of the whole pipeline.
    pipeline.set_random_state(np.random.Generator(np.random.PCG64(0)), random.Random(0))  # noqa: S311
    return pipeline


def check(transforms: Transforms) -> None:
    """Check names and arguments as build() does, as far as possible without the image shape.

    Raises:
        ParamsError: see build.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _steps(transforms, where="augment.transforms", probe=None)


def augment_image(image: np.ndarray, *, pipeline: "Compose", seed: int, image_id: str, copy: int) -> np.ndarray:
    """Return one augmented copy of an image: uint8 (H, W, C), a function of the arguments alone.

    Args:
        image: uint8 (H, W, C), of the shape that the pipeline was built for; a transform may change it in place.
        pipeline: from build(), used by one thread at a time.

    Raises:
        ParamsError: the shape or the type changed; the message names the transform.
    """
    _reseed(pipeline, seed, image_id, copy)
    result = pipeline(image=image)["image"]
    if result.shape != image.shape or result.dtype != np.uint8:
        _reseed(pipeline, seed, image_id, copy)
        step: Any
        for step in pipeline:
            result = step(image=image)["image"]
            _check_result(result, image, type(step).__name__)
    return cast(np.ndarray, result)


def _reseed(pipeline: "Compose", seed: int, image_id: str, copy: int) -> None:
    # Setting states costs 5 us per image, Compose.set_random_seed() 20 us plus more for every further transform.
    key = hashlib.blake2b(f"{seed}/{image_id}/{copy}".encode(), digest_size=40).digest()
    pipeline.random_generator.bit_generator.state = {
        "bit_generator": "PCG64",
        "state": {"state": int.from_bytes(key[:16]), "inc": int.from_bytes(key[16:32]) | 1},  # PCG: inc must be odd
        "has_uint32": 0,
        "uinteger": 0,
    }
    pipeline.py_random.seed(int.from_bytes(key[32:]))


def _steps(transforms: Any, *, where: str, probe: np.ndarray | None) -> list[Any]:
    if not isinstance(transforms, Sequence) or isinstance(transforms, str):
        raise ParamsError(f"{where} is {transforms!r}, expected a list of {{Name: {{argument: value}}}}")
    steps = []
    for position, entry in enumerate(transforms):
        here = f"{where}[{position}]"
        if not isinstance(entry, Mapping) or len(entry) != 1:
            raise ParamsError(f"{here} is {entry!r}, expected one {{Name: {{argument: value}}}}")
        ((name, arguments),) = entry.items()
        if not isinstance(arguments, Mapping | None):
            raise ParamsError(f"{here}: {name} is {arguments!r}, expected a mapping of arguments to values")
        steps.append(_step(str(name), dict(arguments or {}), where=here, probe=probe))
    return steps


def _step(name: str, arguments: dict[str, Any], *, where: str, probe: np.ndarray | None) -> Any:
    kind = _find(name, _known(), what="transform", where=where)
    accepted = [key for key in inspect.signature(kind.__init__).parameters if key not in ("self", "strict")]
    for key in arguments:
        _find(str(key), dict.fromkeys(accepted), what=f"argument of {name}", where=where)
    if "transforms" in accepted:
        return _group(kind, arguments, where=f"{where}.{name}", probe=probe)
    # strict: otherwise albumentations replaces some wrong values by defaults with a warning. A few have no schema.
    owner = next(parent for parent in kind.__mro__ if "__init__" in vars(parent))
    strict = {"strict": True} if "InitSchema" in vars(owner) else {}
    try:
        step = kind(**_sized(arguments, _ANY_SHAPE if probe is None else probe.shape), **strict)
    except Exception as error:
        raise ParamsError(f"{where}: {name} cannot be built: {_sentence(error)}") from None
    _check_targets(step, name, where=where)
    if probe is not None:
        _try(step, name, where=where, probe=probe)
    return step


def _sized(arguments: Mapping[str, Any], shape: tuple[int, ...]) -> dict[str, Any]:
    """Return the arguments of a transform with sizes of the images (H, W, C) in place of `auto`."""
    height, width = shape[:2]
    sizes = {"size": (height, width), "height": height, "min_height": height, "width": width, "min_width": width}
    return {key: sizes.get(key, value) if value == "auto" else value for key, value in arguments.items()}


def _group(kind: type, arguments: dict[str, Any], *, where: str, probe: np.ndarray | None) -> Any:
    """Return a OneOf, SomeOf, RandomOrder or Sequential, whose arguments albumentations does not check."""
    steps = _steps(arguments.pop("transforms", None), where=f"{where}.transforms", probe=probe)
    if not steps:
        raise ParamsError(f"{where}.transforms is empty, expected at least one transform")
    p, n, replace = arguments.get("p", 0), arguments.get("n", 1), arguments.get("replace", False)
    if isinstance(p, bool) or not isinstance(p, int | float) or not 0 <= p <= 1:
        raise ParamsError(f"{where}.p is {p!r}, expected a probability from 0 to 1")
    if not isinstance(replace, bool):
        raise ParamsError(f"{where}.replace is {replace!r}, expected true or false")
    if isinstance(n, bool) or not isinstance(n, int) or n < 1 or (n > len(steps) and not replace):
        raise ParamsError(f"{where}.n is {n!r}, expected a number from 1 to {len(steps)}, the number of its transforms")
    if kind.__name__ == "OneOf" and not any(step.p for step in steps):
        raise ParamsError(f"{where}: every p is 0, so no transform can be chosen; raise one")
    return kind(steps, **arguments)


def _check_targets(step: "BasicTransform", name: str, *, where: str) -> None:
    missing = sorted(set(step.targets_as_params) - {"image"})
    if missing or "image" not in step.available_keys:
        needs = ", ".join(missing) or "inputs other than the image"
        raise ParamsError(f"{where}: {name} needs {needs}; only the image is available; remove the transform")


def _try(step: "BasicTransform", name: str, *, where: str, probe: np.ndarray) -> None:
    step.set_random_seed(0)
    for _ in range(_PROBES):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)  # warns that the transform does nothing on such images
                result = step(image=probe.copy(), force_apply=True)["image"]
        except Exception as error:
            raise ParamsError(f"{where}: {name} fails on an image of shape {probe.shape}: {_sentence(error)}") from None
        _check_result(result, probe, name, where=f"{where}: ")


def _check_result(result: Any, image: np.ndarray, name: str, *, where: str = "") -> None:
    if not isinstance(result, np.ndarray) or result.shape != image.shape or result.dtype != np.uint8:
        got = f"{result.dtype} {tuple(result.shape)}" if hasattr(result, "dtype") else type(result).__name__
        expected = f"uint8 {image.shape}; remove the transform"
        raise ParamsError(f"{where}{name} turns an image into {got}, expected {expected}")


def _find(name: str, known: Mapping[str, Any], *, what: str, where: str) -> Any:
    if name in known:
        return known[name]
    same = [key for key in known if key.lower() == name.lower()]  # difflib is case-sensitive
    hint = did_you_mean(name, same or known, n=3, cutoff=0.0 if same else 0.6) or f"; {_listing(what, known)}"
    raise ParamsError(f"{where}: there is no {what} {name!r}{hint}")


def _listing(what: str, known: Mapping[str, Any]) -> str:
    if what == "transform":
        return "https://albumentations.ai/docs/ lists them"
    return f"known: {', '.join(sorted(known))}"


def _sentence(error: Exception) -> str:
    """Return albumentations' error in one line that names the argument and its value."""
    cause = error.__cause__
    if isinstance(cause, ValidationError):
        first = cause.errors()[0]
        message = first["msg"].removeprefix("Value error, ")
        if not first["loc"]:
            return message
        key = first["loc"][0]
        return f"it lacks {key}" if first["type"] == "missing" else f"{key} is {first['input']!r}: {message}"
    if isinstance(error, KeyError):
        return f"it needs {error}"
    return " ".join(str(error).split()) or type(error).__name__


def _noise(image_shape: tuple[int, int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, image_shape, dtype=np.uint8)


@cache
def _known() -> dict[str, type]:
    """Return the transforms that are allowed in params."""
    import albumentations

    groups = ("OneOf", "SomeOf", "RandomOrder", "Sequential")
    base = albumentations.BasicTransform
    # Without base classes, and without Lambda, whose arguments are functions.
    hidden = {"BasicTransform", "DualTransform", "ImageOnlyTransform", "Transform3D", "Lambda"}
    known = {
        name: kind
        for name, kind in vars(albumentations).items()
        if isinstance(kind, type) and issubclass(kind, base) and name not in hidden
    }
    return known | {name: getattr(albumentations, name) for name in groups} | {"Affine": _image_affine()}


def _image_affine() -> type:
    """Return albumentations' Affine for images only: same draws, same pixels, 0.6 of the time.

    It leaves out the second matrix, for bounding boxes, and the comparison of each matrix with the identity. It
    overrides private methods of albumentations 2.0.8, the last release; a test compares the pixels with the original's.
    """
    import albumentations
    import cv2
    from albumentations.augmentations.geometric import functional

    class Affine(albumentations.Affine):  # type: ignore[misc]
        def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
            if self.fit_output:
                return dict(super().get_params_dependent_on_data(params, data))
            shape = params["shape"][:2]
            translate = self._get_translate_params(shape)
            shear = self._get_shear_params()
            scale = self._get_scale(self.scale, self.keep_ratio, self.balanced_scale, self.py_random)
            rotate = self.py_random.uniform(*self.rotate)
            center = functional.center(shape)
            matrix = functional.create_affine_transformation_matrix(translate, shear, scale, rotate, center)
            return {"matrix": matrix, "output_shape": shape}

        def apply(self, img: np.ndarray, matrix: np.ndarray, output_shape: tuple[int, int], **_: Any) -> np.ndarray:
            height, width = output_shape
            channels = img.shape[2]
            fill = self.fill if isinstance(self.fill, Sequence) else [self.fill] * channels
            warped: np.ndarray = cv2.warpAffine(
                img,
                matrix[:2],
                (int(width), int(height)),
                flags=self.interpolation,
                borderMode=self.border_mode,
                borderValue=fill,
            )
            return warped.reshape(int(height), int(width), channels)

    return Affine

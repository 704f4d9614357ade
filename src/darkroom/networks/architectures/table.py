"""Networks by name. A function takes symbolic images (n, H, W, C), scaled to [0, 1], and returns features (n, d).

networks.build adds the classifier; parameter counts in docstrings include it. All layers are Keras' own, so that a
trained network loads without Darkroom and exports to ONNX.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin, get_type_hints

from darkroom.errors import ParamsError
from darkroom.networks.architectures.articles import single_conv, six_conv, two_conv
from darkroom.networks.architectures.classics import alexnet, lenet5
from darkroom.networks.architectures.compact import compact
from darkroom.networks.architectures.fast import fast
from darkroom.networks.architectures.inception import inception
from darkroom.networks.architectures.resnet import resnet, resnet_cifar
from darkroom.networks.architectures.sizes import check_picture_size
from darkroom.networks.architectures.vgg import vgg
from darkroom.project.text import did_you_mean

Architecture = Callable[..., Any]


def _sized(architecture: Architecture) -> Architecture:
    """Return the architecture with a check that refuses images that are too small."""

    @functools.wraps(architecture)
    def build(images: Any, **arguments: Any) -> Any:
        name = architecture.__name__
        check_picture_size(name, full_arguments(name, arguments), images.shape[1:])
        return architecture(images, **arguments)

    return build


# A new one needs its model in training/params.py and its minimum size in sizes.py.
ARCHITECTURES: dict[str, Architecture] = {
    architecture.__name__: _sized(architecture)
    for architecture in (
        *(compact, fast, single_conv, two_conv, six_conv),
        *(lenet5, alexnet, vgg, inception, resnet, resnet_cifar),
    )
}


def full_arguments(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of an architecture, completed with defaults."""
    parameters = inspect.signature(ARCHITECTURES[name]).parameters.values()
    defaults = {known.name: known.default for known in parameters if known.default is not inspect.Parameter.empty}
    return {**defaults, **arguments}


def check_architecture(name: str, arguments: dict[str, Any]) -> None:
    """Check the name and the arguments of an architecture.

    Raises:
        ParamsError: a name, argument or choice is unknown, or an argument is missing.
    """
    if name not in ARCHITECTURES:
        hint = did_you_mean(name, ARCHITECTURES) or ";"
        raise ParamsError(f"unknown architecture {name!r}{hint} known: {', '.join(sorted(ARCHITECTURES))}")
    parameters = dict(list(inspect.signature(ARCHITECTURES[name]).parameters.items())[1:])
    if unknown := sorted(set(arguments) - set(parameters)):
        raise ParamsError(f"architecture {name} has no argument {unknown[0]!r}; known: {', '.join(parameters)}")
    needed = {key for key, parameter in parameters.items() if parameter.default is inspect.Parameter.empty}
    if missing := sorted(needed - set(arguments)):
        raise ParamsError(f"architecture {name} lacks the argument {missing[0]!r}")
    for key, kind in get_type_hints(ARCHITECTURES[name]).items():
        if key in arguments and get_origin(kind) is Literal and arguments[key] not in get_args(kind):
            *others, last = map(str, get_args(kind))
            raise ParamsError(
                f"architecture {name}: {key} is {arguments[key]!r}, expected {', '.join(others)} or {last}"
            )

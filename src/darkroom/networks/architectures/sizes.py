"""Minimum image sizes of the architectures, computed without Keras, so that a wrong size is refused at once."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from darkroom.errors import ParamsError

POOL = (2, 2)
OVERLAPPING_POOL = (3, 2)
HALVING = (2, 2)  # a padded layer of stride 2


def least_edge(*layers: tuple[int, int]) -> int:
    """Return the smallest edge in pixels that these layers reduce to one pixel; each is (kernel size, stride).

    A padded layer of stride s counts as (s, s): it would accept less, but would then compute from padding.
    """
    edge = 1
    for kernel_size, stride in reversed(layers):
        edge = (edge - 1) * stride + kernel_size
    return edge


def _compact(filters: Sequence[int], stem_kernel_size: int) -> int:
    return least_edge((stem_kernel_size, 1), *[POOL] * len(filters))


def _fast(filters: Sequence[int], whitening_kernel_size: int) -> int:
    return least_edge((whitening_kernel_size, 1), *[POOL] * len(filters))


def _single_conv(kernel_size: int) -> int:
    return least_edge((kernel_size, 1), POOL)


def _two_conv(filters: Sequence[int], kernel_size: int) -> int:
    return least_edge(*[(kernel_size, 1)] * len(filters), POOL)


def _six_conv(filters: Sequence[int], kernel_size: int) -> int:
    return least_edge(*[(kernel_size, 1), POOL] * len(filters))


def _lenet5(filters: Sequence[int], kernel_size: int, stem_padding: str) -> int:
    layers = [(kernel_size, 1), POOL] * len(filters)
    return least_edge(*layers[stem_padding == "same" :])


def _alexnet(stem_kernel_size: int, stem_strides: int) -> int:
    return least_edge((stem_kernel_size, stem_strides), *[OVERLAPPING_POOL] * 3)


def _vgg() -> int:
    return least_edge(*[POOL] * 5)


def _resnet(stem: str) -> int:
    return least_edge(*[HALVING] * (5 if stem == "imagenet" else 3))


def _resnet_cifar() -> int:
    return least_edge(*[HALVING] * 2)


def _inception(stem: str) -> int:
    return least_edge(*[HALVING] * (5 if stem == "imagenet" else 2))


# Per architecture the rule, with the arguments that it needs, and advice for smaller images.
RULES: dict[str, tuple[Callable[..., int], str]] = {
    "compact": (_compact, "give it fewer filters"),
    "fast": (_fast, "give it fewer filters"),
    "single_conv": (_single_conv, "lower its kernel_size"),
    "two_conv": (_two_conv, "lower its kernel_size"),
    "six_conv": (_six_conv, "lower its kernel_size"),
    "lenet5": (_lenet5, "lower its kernel_size"),
    "alexnet": (_alexnet, "lower its stem_kernel_size and stem_strides"),
    "vgg": (_vgg, "choose compact or resnet_cifar, which accept smaller images"),
    "resnet": (_resnet, "set its stem to small, or choose resnet_cifar"),
    "resnet_cifar": (_resnet_cifar, "choose compact with one block"),
    "inception": (_inception, "set its stem to small, or choose resnet_cifar"),
}


def minimum_size(name: str, arguments: Mapping[str, Any]) -> int:
    """Return the minimum height and width in pixels of an architecture's images.

    Args:
        name: a key of architectures.ARCHITECTURES.
        arguments: the architecture's arguments; those on which the size depends are required.

    Raises:
        ParamsError: unknown name.
    """
    if name not in RULES:
        raise ParamsError(f"unknown architecture {name!r}; known: {', '.join(sorted(RULES))}")
    rule, _ = RULES[name]
    return rule(**_deciding(rule, arguments))


def check_picture_size(name: str, arguments: Mapping[str, Any], image_shape: Sequence[int]) -> None:
    """Refuse images that are too small for the architecture.

    Args:
        name, arguments: see minimum_size.
        image_shape: (H, W, C), in pixels.

    Raises:
        ParamsError: they are too small.
    """
    least = minimum_size(name, arguments)
    if min(image_shape[:2]) >= least:
        return
    rule, advice = RULES[name]
    deciding = ", ".join(f"{key} {value}" for key, value in _deciding(rule, arguments).items())
    raise ParamsError(
        f"architecture {name}{f' with {deciding}' if deciding else ''} needs images of at least {least}x{least} "
        f"pixels, got {image_shape[0]}x{image_shape[1]}; raise preprocess.image_size, or {advice}"
    )


def _deciding(rule: Callable[..., int], arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {key: arguments[key] for key in inspect.signature(rule).parameters}

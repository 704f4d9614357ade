from typing import Annotated, Any, get_args, get_origin

import pytest

from darkroom.errors import ParamsError
from darkroom.networks.architectures.sizes import RULES, check_picture_size, minimum_size
from darkroom.training.params import Architecture


@pytest.mark.parametrize(
    ("name", "arguments", "least"),
    [
        ("compact", {"filters": [32, 64, 128], "stem_kernel_size": 5}, 12),
        ("single_conv", {"kernel_size": 3}, 4),
        ("two_conv", {"filters": [32, 64], "kernel_size": 3}, 6),
        ("six_conv", {"filters": [32, 64, 64], "kernel_size": 3}, 22),
        ("lenet5", {"filters": [6, 16], "kernel_size": 5, "stem_padding": "valid"}, 16),
        ("lenet5", {"filters": [6, 16], "kernel_size": 5, "stem_padding": "same"}, 12),
        ("alexnet", {"stem_kernel_size": 11, "stem_strides": 4}, 67),
        ("alexnet", {"stem_kernel_size": 3, "stem_strides": 1}, 17),
        ("vgg", {"depth": 16}, 32),
        ("resnet", {"stem": "imagenet"}, 32),
        ("resnet", {"stem": "small"}, 8),
        ("resnet_cifar", {}, 4),
        ("inception", {"stem": "imagenet"}, 32),
        ("inception", {"stem": "small"}, 4),
    ],
)
def test_the_least_size_leaves_one_pixel_behind_the_last_pooling(
    name: str, arguments: dict[str, Any], least: int
) -> None:
    assert minimum_size(name, arguments) == least
    check_picture_size(name, arguments, (least, least, 3))
    for shape in ((least - 1, least, 3), (least, least - 1, 3)):
        with pytest.raises(ParamsError, match=f"architecture {name} .*at least {least}x{least} pixels"):
            check_picture_size(name, arguments, shape)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "vgg",
            {"depth": 16},
            "architecture vgg needs images of at least 32x32 pixels, got 16x20; "
            "raise preprocess.image_size, or choose compact or resnet_cifar, which accept smaller images",
        ),
        (
            "inception",
            {"stem": "imagenet", "width": 0.5},
            "architecture inception with stem imagenet needs images of at least 32x32 pixels, got 16x20; "
            "raise preprocess.image_size, or set its stem to small, or choose resnet_cifar",
        ),
    ],
)
def test_pictures_that_are_too_small_are_told_the_least_size(
    name: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ParamsError) as caught:
        check_picture_size(name, arguments, (16, 20, 3))
    assert str(caught.value) == message


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(ParamsError, match="unknown architecture 'vg'; known: alexnet, compact"):
        minimum_size("vg", {})


def test_every_architecture_that_params_know_has_a_least_size() -> None:
    union: Any = Architecture
    union = get_args(union)[0] if get_origin(union) is Annotated else union
    sections = {get_args(section.model_fields["name"].annotation)[0]: section for section in get_args(union)}
    sections.pop("transfer", None)  # its backbone decides
    assert set(sections) == set(RULES)
    for name, section in sections.items():
        rule, _ = RULES[name]
        assert set(rule.__annotations__) - {"return"} <= set(section.model_fields)

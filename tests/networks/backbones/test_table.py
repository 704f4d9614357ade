import re

import pytest

from darkroom.errors import ParamsError
from darkroom.networks.backbones.table import BACKBONES, check_image_size, find_backbone


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet5", "unknown backbone 'resnet5'; did you mean 'resnet50'"),
        ("EfficientNet_Lite0", "unknown backbone 'EfficientNet_Lite0'; did you mean 'efficientnet-lite0'"),
        ("mobilenetv2", "did you mean 'mobilenet-v2'"),
        (
            "clip",
            "unknown backbone 'clip'; known: efficientnet-lite0, .*, vgg16-hed, .*, convnext-xlarge, or none",
        ),
    ],
)
def test_an_unknown_name_is_answered_with_the_near_ones_or_all(name: str, message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        find_backbone(name)


def test_too_small_a_picture_is_answered_with_the_least_size() -> None:
    check_image_size(find_backbone("inception-v3"), (75, 80))
    message = "backbone inception-v3: image_size is [75, 74], expected at least [75, 75]"
    with pytest.raises(ParamsError, match=re.escape(message)):
        check_image_size(find_backbone("inception-v3"), (75, 74))


def test_names_are_written_in_lower_case_with_dashes() -> None:
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) for name in BACKBONES)

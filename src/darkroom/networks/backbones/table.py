"""The pretrained networks for `embed.backbone`. A plain table, which does not load Keras.

`preprocessing` is the input that a network expects:
    inside  pixels 0..255, the network rescales them itself
    tf      -1..1
    caffe   BGR minus the mean of ImageNet, unscaled
    torch   0..1, minus the mean of ImageNet, divided by its standard deviation
    lite    (pixel - 127) / 128
"""

from pathlib import Path
from typing import Literal, NamedTuple

from darkroom.errors import ParamsError
from darkroom.project.text import did_you_mean

Preprocessing = Literal["inside", "tf", "caffe", "torch", "lite"]
NONE = "none"


class Backbone(NamedTuple):
    """A network without its classifier.

    keras_class is the function of keras.applications that builds it; None: extractor.py builds it. least_size is the
    smallest edge in pixels that it accepts, n_features the width after global average pooling, n_values the number of
    weights. `about` names the data of the pretrained weights.
    """

    name: str
    keras_class: str | None
    least_size: int
    n_features: int
    n_values: int
    preprocessing: Preprocessing
    about: str = "ImageNet, 1,000 classes"

    @property
    def is_light(self) -> bool:
        """Whether training networks of its family on a CPU is as fast in float32 as in bfloat16, or faster.

        EfficientNet-Lite1 is twice as fast in float32, ConvNeXt-Tiny half as fast (benchmarks/results/precision.json).
        """
        return self.name.startswith(("efficientnet", "mobilenet", "nasnet"))


class Weights(NamedTuple):
    """The source of a backbone's weights.

    origin: none = random from the seed; pretrained = those of the table; file = a user's own file.
    path: None for none.
    sha256: of the file, None for none.
    """

    origin: Literal["none", "pretrained", "file"]
    path: Path | None = None
    sha256: str | None = None


NO_WEIGHTS = Weights("none")

_ROWS = (
    Backbone("efficientnet-lite0", None, 32, 1280, 3_413_024, "lite"),
    Backbone("efficientnet-lite1", None, 32, 1280, 4_189_344, "lite"),
    Backbone("efficientnet-lite2", None, 32, 1280, 4_869_168, "lite"),
    # ImageNet's weights, fine-tuned to detect edges (BSDS500), with small steps in the first blocks and larger ones in
    # the last. Good features, but not those of articles about VGG16.
    Backbone("vgg16-hed", "VGG16", 32, 512, 14_714_688, "caffe", "ImageNet, then edges of BSDS500"),
    Backbone("vgg16", "VGG16", 32, 512, 14_714_688, "caffe"),
    Backbone("vgg19", "VGG19", 32, 512, 20_024_384, "caffe"),
    Backbone("resnet50", "ResNet50", 32, 2048, 23_587_712, "caffe"),
    Backbone("resnet101", "ResNet101", 32, 2048, 42_658_176, "caffe"),
    Backbone("resnet152", "ResNet152", 32, 2048, 58_370_944, "caffe"),
    Backbone("resnet50v2", "ResNet50V2", 32, 2048, 23_564_800, "tf"),
    Backbone("resnet101v2", "ResNet101V2", 32, 2048, 42_626_560, "tf"),
    Backbone("resnet152v2", "ResNet152V2", 32, 2048, 58_331_648, "tf"),
    Backbone("inception-v3", "InceptionV3", 75, 2048, 21_802_784, "tf"),
    Backbone("inception-resnet-v2", "InceptionResNetV2", 75, 1536, 54_336_736, "tf"),
    Backbone("xception", "Xception", 71, 2048, 20_861_480, "tf"),
    Backbone("densenet121", "DenseNet121", 32, 1024, 7_037_504, "torch"),
    Backbone("densenet169", "DenseNet169", 32, 1664, 12_642_880, "torch"),
    Backbone("densenet201", "DenseNet201", 32, 1920, 18_321_984, "torch"),
    Backbone("mobilenet", "MobileNet", 32, 1024, 3_228_864, "tf"),
    Backbone("mobilenet-v2", "MobileNetV2", 32, 1280, 2_257_984, "tf"),
    Backbone("mobilenet-v3-small", "MobileNetV3Small", 32, 576, 939_120, "inside"),
    Backbone("mobilenet-v3-large", "MobileNetV3Large", 32, 960, 2_996_352, "inside"),
    Backbone("nasnet-mobile", "NASNetMobile", 32, 1056, 4_269_716, "tf"),
    Backbone("nasnet-large", "NASNetLarge", 32, 4032, 84_916_818, "tf"),
    Backbone("efficientnet-b0", "EfficientNetB0", 32, 1280, 4_049_571, "inside"),
    Backbone("efficientnet-b1", "EfficientNetB1", 32, 1280, 6_575_239, "inside"),
    Backbone("efficientnet-b2", "EfficientNetB2", 32, 1408, 7_768_569, "inside"),
    Backbone("efficientnet-b3", "EfficientNetB3", 32, 1536, 10_783_535, "inside"),
    Backbone("efficientnet-b4", "EfficientNetB4", 32, 1792, 17_673_823, "inside"),
    Backbone("efficientnet-b5", "EfficientNetB5", 32, 2048, 28_513_527, "inside"),
    Backbone("efficientnet-b6", "EfficientNetB6", 32, 2304, 40_960_143, "inside"),
    Backbone("efficientnet-b7", "EfficientNetB7", 32, 2560, 64_097_687, "inside"),
    Backbone("efficientnet-v2-b0", "EfficientNetV2B0", 32, 1280, 5_919_312, "inside"),
    Backbone("efficientnet-v2-b1", "EfficientNetV2B1", 32, 1280, 6_931_124, "inside"),
    Backbone("efficientnet-v2-b2", "EfficientNetV2B2", 32, 1408, 8_769_374, "inside"),
    Backbone("efficientnet-v2-b3", "EfficientNetV2B3", 32, 1536, 12_930_622, "inside"),
    Backbone("efficientnet-v2-s", "EfficientNetV2S", 32, 1280, 20_331_360, "inside"),
    Backbone("efficientnet-v2-m", "EfficientNetV2M", 32, 1280, 53_150_388, "inside"),
    Backbone("efficientnet-v2-l", "EfficientNetV2L", 32, 1280, 117_746_848, "inside"),
    Backbone("convnext-tiny", "ConvNeXtTiny", 32, 768, 27_820_128, "inside"),
    Backbone("convnext-small", "ConvNeXtSmall", 32, 768, 49_454_688, "inside"),
    Backbone("convnext-base", "ConvNeXtBase", 32, 1024, 87_566_464, "inside"),
    Backbone("convnext-large", "ConvNeXtLarge", 32, 1536, 196_230_336, "inside"),
    Backbone("convnext-xlarge", "ConvNeXtXLarge", 32, 2048, 348_147_968, "inside"),
)

BACKBONES: dict[str, Backbone] = {backbone.name: backbone for backbone in _ROWS}


def find_backbone(name: str) -> Backbone:
    """Return the backbone with a name.

    Raises:
        ParamsError: there is none.
    """
    if name in BACKBONES:
        return BACKBONES[name]
    known = f"; known: {', '.join(BACKBONES)}, or {NONE}"
    hint = did_you_mean(name.casefold().replace("_", "-"), BACKBONES, n=3)
    raise ParamsError(f"unknown backbone {name!r}{hint or known}")


def check_image_size(backbone: Backbone, image_size: tuple[int, int]) -> None:
    """Refuse images (height, width) that are too small for the backbone.

    Raises:
        ParamsError: they are too small.
    """
    if min(image_size) < backbone.least_size:
        raise ParamsError(
            f"backbone {backbone.name}: image_size is {list(image_size)}, expected at least "
            f"[{backbone.least_size}, {backbone.least_size}]; the model resizes images to it"
        )

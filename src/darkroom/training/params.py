"""The section of a candidate in `train` of params.yaml, read by the stages train and tune and by `lr-find`."""

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from darkroom.project.params import Section, Seed

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Level = Annotated[float, Field(gt=0, lt=1)]
Initializer = Literal["glorot_uniform", "glorot_normal", "he_uniform", "he_normal"]


class Compact(Section):
    """architectures.compact."""

    name: Literal["compact"]
    filters: Annotated[list[Count], Field(min_length=1)]
    stem_kernel_size: Count
    head: Literal["flatten", "average"]
    dropout: Rate


class Fast(Section):
    """architectures.fast."""

    name: Literal["fast"]
    filters: Annotated[list[Count], Field(min_length=1)]
    whitening_kernel_size: Count
    activation: Literal["relu", "gelu", "silu"]


class SingleConv(Section):
    """architectures.single_conv."""

    name: Literal["single_conv"]
    filters: Count
    kernel_size: Count
    units: Count
    initializer: Initializer


class TwoConv(Section):
    """architectures.two_conv."""

    name: Literal["two_conv"]
    filters: Annotated[list[Count], Field(min_length=2, max_length=2)]
    kernel_size: Count
    units: Count
    conv_dropout: Rate
    dense_dropout: Rate
    initializer: Initializer


class SixConv(Section):
    """architectures.six_conv."""

    name: Literal["six_conv"]
    filters: Annotated[list[Count], Field(min_length=3, max_length=3)]  # of each pair of convolutions
    kernel_size: Count
    units: Count
    conv_dropout: Rate
    dense_dropout: Rate
    initializer: Initializer


class LeNet5(Section):
    """architectures.lenet5."""

    name: Literal["lenet5"]
    filters: Annotated[list[Count], Field(min_length=2, max_length=2)]
    units: Annotated[list[Count], Field(min_length=2, max_length=2)]
    kernel_size: Count
    stem_padding: Literal["valid", "same"]
    activation: Literal["tanh", "relu"]
    pooling: Literal["average", "max"]


class AlexNet(Section):
    """architectures.alexnet."""

    name: Literal["alexnet"]
    filters: Annotated[list[Count], Field(min_length=5, max_length=5)]
    units: Annotated[list[Count], Field(min_length=2, max_length=2)]
    stem_kernel_size: Count
    stem_strides: Count
    dropout: Rate


class Vgg(Section):
    """architectures.vgg."""

    name: Literal["vgg"]
    depth: Literal[11, 13, 16, 19]
    units: list[Count]
    width: Positive  # factor on all filters
    head: Literal["flatten", "average"]
    batch_norm: bool
    dropout: Rate


class ResNet(Section):
    """architectures.resnet."""

    name: Literal["resnet"]
    depth: Literal[18, 34, 50]
    filters: Count  # of the first stage
    stem: Literal["imagenet", "small"]
    dropout: Rate


class ResNetCifar(Section):
    """architectures.resnet_cifar."""

    name: Literal["resnet_cifar"]
    depth: Literal[20, 32, 44, 56, 110]
    filters: Count  # of the first stage
    dropout: Rate


class Inception(Section):
    """architectures.inception."""

    name: Literal["inception"]
    stem: Literal["imagenet", "small"]
    width: Positive  # factor on all filters
    batch_norm: bool
    dropout: Rate


class Transfer(Section):
    """A new head on the backbone of the section `embed`.

    features: the head is trained on the features that `embed` computed; frozen: on augmented images, through the
    frozen backbone; finetune: first the head on the features, then also the last blocks of the backbone. On features, a
    head without hidden units is solved (linear_head), so settings of training steps do not apply to it.
    """

    name: Literal["transfer"]
    mode: Literal["features", "frozen", "finetune"]
    units: Annotated[int, Field(ge=0)]  # of a hidden layer, 0: none
    dropout: Rate
    unfreeze: Count | Literal["all"]  # last blocks of the backbone
    finetune_epochs: Count
    finetune_learning_rate: Positive


Architecture = (
    Compact
    | Fast
    | SingleConv
    | TwoConv
    | SixConv
    | LeNet5
    | AlexNet
    | Vgg
    | ResNet
    | ResNetCifar
    | Inception
    | Transfer
)


class Optimizer(Section):
    """optimizers.make_optimizer."""

    name: Literal["sgd", "adam", "adamw", "rmsprop", "muon"]
    momentum: Rate  # of sgd (Nesterov) and muon; the others have their own
    weight_decay: NonNegative  # decoupled; not applied to biases and BatchNorm
    clip_norm: Positive | None  # maximum global norm of the gradients


class Rising(Section):
    """Schedules that rise over the share `warmup` of all steps."""

    name: Literal["one_cycle", "cosine", "constant"]
    warmup: Rate


class Step(Section):
    """Multiplied by `factor` every `every` epochs."""

    name: Literal["step"]
    warmup: Rate
    every: Count
    factor: Annotated[float, Field(gt=0, lt=1)]


class Plateau(Section):
    """Multiplied by `factor` after `patience` epochs without improvement of `metric`."""

    name: Literal["plateau"]
    warmup: Rate
    metric: Literal["train_loss", "val_loss", "train_accuracy", "val_accuracy"]
    patience: Count
    factor: Annotated[float, Field(gt=0, lt=1)]


class TrainAugmentation(Section):
    """Random augmentation of the training images, redrawn every epoch."""

    shift: Annotated[int, Field(ge=0)]  # maximum shift in pixels
    shift_fill: Literal["zero", "reflect"]
    flip: Literal["none", "random", "alternating"]
    cutout: Annotated[int, Field(ge=0)]  # edge in pixels of an erased square
    erasing: Annotated[float, Field(ge=0, le=1)]  # probability of an erased rectangle
    mixup: NonNegative  # alpha, 0: none
    cutmix: NonNegative  # alpha, 0: none


class EarlyStopping(Section):
    """Stop after `patience` epochs without improvement of `metric`."""

    metric: Literal["train_loss", "val_loss", "train_accuracy", "val_accuracy"]
    patience: Count


class Abstain(Section):
    """Answer only above a probability at which at most error_rate of the answers is wrong, with this confidence."""

    error_rate: Level
    confidence: Level


class Sets(Section):
    """List the classes among which the true one is for this share of images."""

    coverage: Level


class Debug(Section):
    """Settings for debugging."""

    overfit_one_batch: bool
    max_steps: Count | None  # per epoch


class TrainParams(Section):
    """The section `train.<candidate>`."""

    architecture: Annotated[Architecture, Field(discriminator="name")]
    output: Literal["softmax", "sigmoid"]
    epochs: Count
    batch_size: Count | Literal["auto"]
    optimizer: Optimizer
    learning_rate: Positive
    schedule: Annotated[Rising | Step | Plateau, Field(discriminator="name")]
    label_smoothing: Rate
    class_weights: Literal["none", "balanced", "effective", "auto"] | dict[str, NonNegative]
    averaging: Rate  # of the weights over the steps (EMA), 0: none
    early_stopping: EarlyStopping | None
    checkpoint: Literal["best", "last"]  # epoch, by validation accuracy; last is for schedules that end near 0
    train_augmentation: TrainAugmentation
    test_time_views: Literal["one", "flip", "flip_and_shift"]
    calibration: Literal["temperature", "none"]
    abstain: Abstain | None
    sets: Sets | None
    unknown_below: Level | None
    precision: Literal["auto", "float32", "bfloat16", "float16"]
    debug: Debug
    seed: Seed

    @field_validator("checkpoint")
    @classmethod
    def _not_after_the_best(cls, checkpoint: str, info: ValidationInfo) -> str:
        stopping = info.data.get("early_stopping")
        if checkpoint == "last" and stopping is not None and stopping.metric.startswith("val_"):
            raise ValueError(
                f"expected best, because early_stopping ends the training {stopping.patience} epochs after the best "
                "one; or set early_stopping to null"
            )
        return checkpoint

"""Apply a candidate's params to its data: checks, network, optimizer, batches.

A recipe is a plain mapping of the form of `train.<candidate>` in params.yaml (see params.TrainParams), so nothing here
needs pydantic or MLflow. Keras is loaded inside the functions that build, so that `check` can refuse a wrong recipe
without it.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from darkroom.data.arrays.features import Features
from darkroom.errors import ParamsError
from darkroom.networks.architectures.sizes import check_picture_size
from darkroom.networks.backbones.table import Weights, find_backbone
from darkroom.training.batches import EpochBatches, OneBatch, PlainBatches
from darkroom.training.class_weights import class_weights
from darkroom.training.data import Data, share_of_class
from darkroom.training.variation import Variation

if TYPE_CHECKING:
    import keras

    from darkroom.training.schedules import Plateau, Schedule

Recipe = Mapping[str, Any]
FEW_VALIDATION = 500  # images; a temperature or an accuracy from fewer is mostly chance
OF_STEPS = (  # the first two apply only to the head; fine-tuning has its own
    *("epochs", "learning_rate", "batch_size", "optimizer", "schedule", "averaging", "early_stopping", "checkpoint"),
    *("train_augmentation", "precision", "architecture.dropout"),
)


def arguments(recipe: Recipe) -> dict[str, Any]:
    """Return the arguments of the params' architecture."""
    return {key: value for key, value in recipe["architecture"].items() if key != "name"}


def transfer_mode(recipe: Recipe) -> str | None:
    """Return "features", "frozen" or "finetune"; None for a network without a backbone."""
    return str(recipe["architecture"]["mode"]) if recipe["architecture"]["name"] == "transfer" else None


def is_solved(recipe: Recipe) -> bool:
    """Return whether the head is linear on precomputed features, so that linear_head.solve() finds it."""
    return transfer_mode(recipe) in ("features", "finetune") and recipe["architecture"]["units"] == 0


def set_aside_from(recipe: Recipe, *, searching: bool = False) -> int | None:
    """Return the minimum number of validation images for setting half of them aside for calibration.

    None if the recipe has nothing to calibrate. With few images and a solved head, out-of-fold answers are used for
    calibration instead.

    Args:
        searching: whether this is for a search, whose trials must all be judged by the same images; if these are few,
            by all.
    """
    if (recipe["abstain"] is None and recipe["sets"] is None) or recipe["debug"]["overfit_one_batch"]:
        return None
    by_folds = is_solved(recipe) and transfer_mode(recipe) == "features" and recipe["test_time_views"] == "one"
    return FEW_VALIDATION if searching or by_folds else 2


def ignored(recipe: Recipe) -> tuple[str, ...]:
    """Return the dotted keys that do not apply because the head is solved and not trained in steps."""
    if not is_solved(recipe):
        return ()
    return OF_STEPS if transfer_mode(recipe) == "features" else OF_STEPS[:2]


def n_epochs(recipe: Recipe) -> int:
    """Return the number of epochs of all phases; a solved head counts as one."""
    more = recipe["architecture"]["finetune_epochs"] if transfer_mode(recipe) == "finetune" else 0
    return int((1 if is_solved(recipe) else recipe["epochs"]) + more)


def shortened(recipe: Recipe, *, epochs: int | None) -> dict[str, Any]:
    """Return the params with at most `epochs` in every phase; None: no limit."""
    if epochs is None:
        return dict(recipe)
    short = {**recipe, "epochs": min(recipe["epochs"], epochs)}
    if transfer_mode(recipe) == "finetune":
        network = recipe["architecture"]
        short["architecture"] = {**network, "finetune_epochs": min(network["finetune_epochs"], epochs)}
    return short


def n_training(recipe: Recipe, data: Data, features: Features | None, *, fraction: float = 1.0) -> int:
    """Return the number of training images of every phase; features may exist only for some images.

    Args:
        fraction: of the training images, see data.part.
    """
    labels = [data.labels]
    if features is not None and transfer_mode(recipe) in ("features", "finetune"):
        labels.append(features.arrays("train")[1])
    counts = [np.unique(of_phase, return_counts=True)[1].tolist() for of_phase in labels]
    return min(sum(share_of_class(fraction, count) for count in of_phase) for of_phase in counts)


def check(
    recipe: Recipe,
    data: Data,
    *,
    image_shape: tuple[int, int, int],
    features: Features | None,
    fraction: float = 1.0,
) -> None:
    """Check that the params can be trained on these data, or a fraction of them, without loading Keras.

    Raises:
        ParamsError: a setting does not fit.
    """
    mode, variation, size = transfer_mode(recipe), Variation(**recipe["train_augmentation"]), min(image_shape[:2])
    if mode is None:
        check_picture_size(recipe["architecture"]["name"], arguments(recipe), image_shape)
    elif features is None or features.backbone is None:
        raise ParamsError(f"mode {mode} needs a backbone and its features; set embed.backbone")
    if recipe["output"] == "sigmoid" and len(data.classes) != 2:
        raise ParamsError(f"output sigmoid needs exactly 2 classes, the dataset has {len(data.classes)}; use softmax")
    class_weights(recipe["class_weights"], labels=data.labels, classes=data.classes)
    has_steps = "batch_size" not in ignored(recipe)
    if is_solved(recipe) and recipe["debug"]["overfit_one_batch"]:
        raise ParamsError(
            "debug.overfit_one_batch is for training in steps, but a head without hidden units is solved at once; set "
            "architecture.mode: frozen, or debug.overfit_one_batch: false"
        )
    n_train = n_training(recipe, data, features, fraction=fraction)
    if has_steps and recipe["batch_size"] != "auto" and recipe["batch_size"] > n_train:
        rest = "; lower it" if fraction == 1 else " of a trial; lower it, or raise tune.fraction"
        raise ParamsError(f"batch_size is {recipe['batch_size']}, more than the {n_train} training images{rest}")
    if not len(data.val_labels):
        raise ParamsError("the dataset has no validation images; raise preprocess.val_fraction")
    if mode == "features":
        return  # nothing varies features
    if variation.cutout >= size:
        raise ParamsError(
            f"train_augmentation.cutout is {variation.cutout}: it would blank whole images of "
            f"{image_shape[:2]} pixels; the maximum is {size - 1}"
        )
    if variation.shift >= size:
        raise ParamsError(
            f"train_augmentation.shift is {variation.shift}: it would move images of "
            f"{image_shape[:2]} pixels out of view; the maximum is {size - 1}"
        )


def build_network(recipe: Recipe, *, image_shape: tuple[int, int, int], n_classes: int, policy: str) -> "keras.Model":
    """Return the params' untrained network (see networks.build.build)."""
    from darkroom.networks import build

    return build.build(
        recipe["architecture"]["name"],
        image_shape=image_shape,
        n_classes=n_classes,
        arguments=arguments(recipe),
        output=recipe["output"],
        seed=recipe["seed"],
        policy=policy,
    )


def build_head(recipe: Recipe, *, n_features: int, n_classes: int, policy: str) -> "keras.Model":
    """Return the untrained head of params for transfer (see networks.build.build_head)."""
    from darkroom.networks import build

    return build.build_head(
        n_features,
        n_classes=n_classes,
        units=recipe["architecture"]["units"],
        dropout=recipe["architecture"]["dropout"],
        of_roots=is_solved(recipe),
        output=recipe["output"],
        seed=recipe["seed"],
        policy=policy,
    )


def extractor_of(
    features: Features | None, *, image_shape: tuple[int, int, int], weights: Weights | None = None
) -> "Callable[[str], keras.Model] | None":
    """Return a function that builds the backbone of the features for a Keras dtype policy; None without a backbone.

    Args:
        features: computed by `embed`; None if not opened.
        image_shape: (height, width, channels) of the images.
        weights: of the backbone; None: obtain them as `embed` does.

    Raises:
        DataError: the backbone's weights cannot be obtained.
    """
    if features is None:
        return None
    name, setting, image_size, seed = features.backbone, features.weights, features.image_size, features.seed
    if name is None or setting is None or image_size is None or seed is None:  # all of them
        return None
    from darkroom.networks.backbones import extractor

    if weights is None:
        from darkroom.networks.backbones.weights import obtain_weights  # it needs more packages than training does

        weights = obtain_weights(find_backbone(name), setting)
    return lambda policy: extractor.extractor(
        name, image_shape=image_shape, image_size=image_size, weights=weights, seed=seed, policy=policy
    )


def policy_of(recipe: Recipe, features: Features | None) -> str:
    """Return the Keras dtype policy of a training (see device.policy).

    Args:
        features: of the backbone; None if not opened.

    Raises:
        ParamsError: the device does not support the precision.
    """
    from darkroom.networks.runtime.device import policy

    backbone = features.backbone if features and transfer_mode(recipe) in ("frozen", "finetune") else None
    return policy(recipe["precision"], is_light=backbone is not None and find_backbone(backbone).is_light)


def build_optimizer(recipe: Recipe, *, learning_rate: Any, policy: str) -> "keras.optimizers.Optimizer":
    """Return the params' optimizer (see optimizers.make_optimizer) for a learning rate or a schedule of it."""
    from darkroom.training import optimizers

    settings = recipe["optimizer"]
    return optimizers.make_optimizer(
        settings["name"],
        learning_rate=learning_rate,
        momentum=settings["momentum"],
        weight_decay=settings["weight_decay"],
        clip_norm=settings["clip_norm"],
        averaging=recipe["averaging"],
        loss_scaling=policy == "mixed_float16",
    )


def build_schedule(recipe: Recipe, *, peak: float, epochs: int, steps_per_epoch: int) -> "Schedule":
    """Return the params' schedule (see schedules.Schedule) for a phase of `epochs`."""
    from darkroom.training import schedules

    settings = recipe["schedule"]
    return schedules.Schedule(
        settings["name"],
        peak=peak,
        total_steps=epochs * steps_per_epoch,
        steps_per_epoch=steps_per_epoch,
        warmup=settings["warmup"],
        every=settings.get("every"),
        factor=settings.get("factor"),
    )


def build_plateau(recipe: Recipe) -> "Plateau | None":
    """Return the Plateau that lowers the learning rate of the schedule `plateau`; None for other schedules."""
    from darkroom.training import schedules

    settings = recipe["schedule"]
    if settings["name"] != "plateau":
        return None
    return schedules.Plateau(settings["metric"], patience=settings["patience"], factor=settings["factor"])


def variation_of(recipe: Recipe, data: Data) -> Variation:
    """Return the random augmentations of the training: none for features, or for one batch only."""
    varied = len(data.images.shape) == 4 and not recipe["debug"]["overfit_one_batch"]
    return Variation(**recipe["train_augmentation"]) if varied else Variation()


def epoch_batches(recipe: Recipe, data: Data, *, batch_size: int, epoch: int) -> EpochBatches | OneBatch:
    """Return the training batches of an epoch, counted from 0 over all phases."""
    only_one = recipe["debug"]["overfit_one_batch"]
    batches = EpochBatches(
        data.images,
        data.labels,
        n_classes=len(data.classes),
        batch_size=batch_size,
        seed=recipe["seed"],
        epoch=0 if only_one else epoch,
        variation=variation_of(recipe, data),
        weights=class_weights(recipe["class_weights"], labels=data.labels, classes=data.classes),
        max_steps=recipe["debug"]["max_steps"],
    )
    return OneBatch(batches) if only_one else batches


def validation_batches(recipe: Recipe, data: Data, *, batch_size: int) -> PlainBatches:
    """Return the validation batches, of twice the size, because no gradients are kept.

    If training uses only one batch, return that batch: a loss that goes to 0 in training but not here points to
    differences between the two (BatchNorm, dropout).
    """
    images, labels = data.val_images, data.val_labels
    if recipe["debug"]["overfit_one_batch"]:
        images, one_hot = epoch_batches(recipe, data, batch_size=batch_size, epoch=0)[0][:2]
        labels = one_hot.argmax(axis=1)
    return PlainBatches(images, labels, n_classes=len(data.classes), batch_size=2 * batch_size)

"""Search with KerasTuner or AutoKeras, then train with the values found: the other sides of benchmarks/tuning_peers.py.

    python benchmarks/peers/keras_tuners.py keras-tuner settings.json

The result is printed as one line of JSON. Needs the packages of requirements.txt, and nothing of this repository.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import autokeras
import keras
import keras_tuner
import numpy as np
from keras import layers

Settings = dict[str, Any]
Arrays = dict[str, np.ndarray]


class Deadline(keras.callbacks.Callback):
    """Ends a training after the epoch in which the time of the search runs out."""

    n_epochs = 0  # of all trials: each trains with a copy of this object

    def __init__(self, end: float) -> None:
        super().__init__()
        self.end = end

    def on_epoch_end(self, _epoch: int, _logs: Any = None) -> None:
        Deadline.n_epochs += 1
        if time.time() > self.end:
            self.model.stop_training = True


class Timed:
    """Prevents a tuner from starting trials after its time."""

    end: float
    oracle: Any

    def on_trial_end(self, trial: Any) -> None:
        super().on_trial_end(trial)  # type: ignore[misc]
        if time.time() > self.end:
            self.oracle.max_trials = len(self.oracle.trials)


class Hyperband(Timed, keras_tuner.Hyperband):
    """KerasTuner's Hyperband."""


class Greedy(Timed, autokeras.tuners.greedy.Greedy):
    """AutoKeras' default tuner."""


def keras_tuner_side(settings: Settings, data: Arrays, *, end: float, folder: str) -> dict[str, Any]:
    """Return the result of KerasTuner with the same network, draws, optimizer, space and maximum epochs of a trial."""

    def build(hp: keras_tuner.HyperParameters) -> keras.Model:
        drawn = {
            key: hp.Float(key, *entry["float"], sampling="log" if entry.get("log") else "linear")
            for key, entry in settings["space"].items()
        }
        return compact(
            settings["recipe"],
            learning_rate=drawn["learning_rate"],
            weight_decay=drawn["optimizer.weight_decay"],
            dropout=drawn["architecture.dropout"],
        )

    tuner = Hyperband(
        build,
        objective="val_accuracy",
        max_epochs=settings["trial_epochs"],
        hyperband_iterations=1000,  # until the time is over
        seed=settings["seed"],
        directory=folder,
    )
    tuner.end = end
    labels, validation = one_hot(data["labels"]), (data["val_images"], one_hot(data["val_labels"]))
    batch_size = settings["recipe"]["batch_size"]
    tuner.search(
        data["images"], labels, validation_data=validation, batch_size=batch_size, callbacks=[Deadline(end)], verbose=0
    )
    found = searched(tuner, settings)
    started = time.time()
    model = build(tuner.get_best_hyperparameters()[0])
    history = model.fit(
        data["images"], labels, validation_data=validation, batch_size=batch_size, epochs=settings["recipe"]["epochs"],
        callbacks=[best_epoch(settings)], verbose=0,
    )  # fmt: skip
    return found | trained(model, history, data, started=started)


def autokeras_side(settings: Settings, data: Arrays, *, end: float, folder: str) -> dict[str, Any]:
    """Return the result of AutoKeras with the most similar networks of its own blocks and its own optimizers."""
    filters, shift = settings["recipe"]["architecture"]["filters"], settings["recipe"]["train_augmentation"]["shift"]
    widths = keras_tuner.engine.hyperparameters.Choice("filters", filters)  # each block's own
    pictures = autokeras.ImageInput()
    x = autokeras.ImageAugmentation(
        translation_factor=shift / 32, horizontal_flip=True, vertical_flip=False,
        rotation_factor=0.0, zoom_factor=0.0, contrast_factor=0.0,
    )(autokeras.Normalization()(pictures))  # fmt: skip
    x = autokeras.ConvBlock(
        kernel_size=3, num_blocks=len(filters), num_layers=1, filters=widths, max_pooling=True, separable=False,
        dropout=0.0,
    )(x)  # fmt: skip
    auto = autokeras.AutoModel(
        pictures,
        autokeras.ClassificationHead()(autokeras.SpatialReduction("global_avg")(x)),
        objective="val_accuracy",
        tuner=Greedy,
        max_trials=100_000,  # until the time is over
        seed=settings["seed"],
        directory=folder,
    )
    auto.tuner.end = end
    labels, validation = one_hot(data["labels"]), (data["val_images"], one_hot(data["val_labels"]))
    batch_size, epochs = settings["recipe"]["batch_size"], settings["recipe"]["epochs"]
    # If given an EarlyStopping, AutoKeras does not train a final model of its own, with the epochs of a trial.
    never = keras.callbacks.EarlyStopping(patience=settings["trial_epochs"])
    auto.fit(
        data["images"], labels, validation_data=validation, batch_size=batch_size, epochs=settings["trial_epochs"],
        callbacks=[Deadline(end), never], verbose=0,
    )  # fmt: skip
    found = searched(auto.tuner, settings)
    started = time.time()
    auto.tuner.hypermodel.set_fit_args(0, epochs=epochs)  # one of its learning rates decreases over the epochs
    _, model, history = auto.tuner.final_fit(
        x=data["images"], y=labels, validation_data=validation, batch_size=batch_size, epochs=epochs,
        callbacks=[best_epoch(settings)], verbose=0,
    )  # fmt: skip
    return found | trained(model, history, data, started=started)


def compact(recipe: Settings, *, learning_rate: float, weight_decay: float, dropout: float) -> keras.Model:
    """Return darkroom.networks.architectures.compact, compiled with the draws and the optimizer of a recipe."""
    network, variation = recipe["architecture"], recipe["train_augmentation"]
    pictures = keras.Input((32, 32, 3), dtype="uint8")
    x = layers.RandomFlip("horizontal")(pictures)
    shift = variation["shift"] / 32
    x = layers.RandomTranslation(shift, shift, fill_mode="constant", interpolation="nearest")(x)
    x = layers.Rescaling(1 / 255)(x)
    for block, width in enumerate(network["filters"]):
        size, padding = (network["stem_kernel_size"], "valid") if block == 0 else (3, "same")
        x = layers.MaxPooling2D()(layers.Conv2D(width, size, padding=padding, use_bias=False)(x))
        x = layers.Activation("relu")(layers.BatchNormalization(momentum=0.9)(x))
    x = layers.Dropout(dropout)(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(pictures, layers.Dense(10)(x))
    model.compile(
        optimizer=keras.optimizers.SGD(
            learning_rate, momentum=recipe["optimizer"]["momentum"], nesterov=True, weight_decay=weight_decay
        ),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=recipe["label_smoothing"]),
        metrics=["accuracy"],
    )
    return model


def one_hot(labels: np.ndarray) -> np.ndarray:
    return np.asarray(np.eye(10, dtype=np.float32)[labels])


def best_epoch(settings: Settings) -> keras.callbacks.Callback:
    """Return a callback that keeps the weights of the best epoch, as `checkpoint: best` does, and never stops early."""
    return keras.callbacks.EarlyStopping(
        monitor="val_accuracy", mode="max", patience=settings["recipe"]["epochs"], restore_best_weights=True
    )


def searched(tuner: Any, settings: Settings) -> dict[str, Any]:
    """Return the result of a search."""
    trials = [trial for trial in tuner.oracle.trials.values() if trial.status == "COMPLETED"]
    best = tuner.oracle.get_best_trials(1)[0]
    values = best.hyperparameters.values
    # KerasTuner's Hyperband continues a network in another trial.
    drawn = {trial.trial_id for trial in trials if "tuner/trial_id" not in trial.hyperparameters.values}
    return {
        "n_trials": len(trials),
        "n_configurations": len(drawn),
        "n_epochs": Deadline.n_epochs,
        "search_seconds": round(time.time() - settings["started"], 1),
        "search_val_accuracy": best.score,
        "values": {name: value for name, value in values.items() if not name.startswith("tuner/")},
    }


def trained(model: keras.Model, history: Any, data: Arrays, *, started: float) -> dict[str, Any]:
    """Return the accuracies of the final model."""
    seconds = time.time() - started
    predicted = model.predict(data["test_images"], verbose=0).argmax(axis=1)
    return {
        "n_parameters": model.count_params(),
        "val_accuracy": max(history.history["val_accuracy"]),
        "test_accuracy": float((predicted == data["test_labels"]).mean()),
        "train_seconds": round(seconds, 1),
    }


def main() -> None:
    side = {"keras-tuner": keras_tuner_side, "autokeras": autokeras_side}[sys.argv[1]]
    settings = json.loads(Path(sys.argv[2]).read_text())
    with np.load(settings["arrays"]) as arrays:
        data = dict(arrays)
    keras.utils.set_random_seed(settings["seed"])
    with tempfile.TemporaryDirectory() as folder:
        end = settings["started"] + settings["seconds"]  # TensorFlow's start is part of the search, as in Darkroom's
        print(json.dumps(side(settings, data, end=end, folder=folder)))


if __name__ == "__main__":
    main()

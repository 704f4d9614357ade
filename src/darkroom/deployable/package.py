"""The deployable classifier: an ONNX file with metadata about its input, and the decoder that it was trained with.

This module and those that it imports (see code_files.py), with NumPy, OpenCV and ONNX Runtime, are all that a
consumer needs: they travel inside the registered model and import nothing of darkroom. For the same reason every error
here is a ValueError with one clear line.
"""

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .items import Item, image_of, one_line
from .machine import usable_cores
from .scores import familiarities, set_scores


def _missing(package: str, error: ImportError) -> ImportError:
    wanted = f"this model needs the package {package}, which cannot be imported ({error})"
    return ImportError(f"{wanted}; install it: pip install {package}", name=error.name)


try:
    from .images import Form, prepare
except ImportError as error:
    if error.name != "cv2":
        raise
    raise _missing("opencv-python-headless", error) from None

METADATA_KEY = "darkroom"  # of the ONNX file's metadata_props; its value is JSON


class Package:
    """A classifier loaded from model.onnx; see `load`. Safe to share between threads.

    Attributes:
        classes: class names, in the order of the probabilities.
        image_shape: (height, width, channels) of the network's input.
        color: "grey" (1 channel) or "rgb" (3 channels, in this order).
        form: both, and how images are converted.
        abstain_below: answers with a smaller probability are marked as abstained; None: never.
        unknown_below: images that are less familiar are marked as unknown, and abstained; None: the model cannot tell.
        sets: the parameters of prediction sets (threshold, penalty, free) and their coverage; None: the model has none.
        metadata: all metadata of the ONNX file.

    >>> package = Package.load("model.onnx")
    >>> package.classes
    ['cat', 'dog']
    >>> answer = package.predict(["photo.png"])[0]
    >>> answer["label"], answer["abstained"]
    ('cat', False)
    """

    # Refused unread above this: 150 MB as RGB. Most decoders need twice as much, that of JPEG 2000 up to 11 times.
    MAX_PIXELS = 50_000_000
    MAX_BYTES = 50_000_000  # of an image file

    def __init__(self, session: Any, metadata: dict[str, Any], *, source: str, max_pixels: int) -> None:
        self.metadata = metadata
        self.classes: list[str] = metadata["classes"]
        self.form = Form.of(metadata)
        self.image_shape = self.form.image_shape
        self.color = self.form.color
        self.abstain_below: float | None = metadata.get("abstain_below")
        self.unknown_below: float | None = metadata.get("unknown_below")
        self.sets: dict[str, Any] | None = metadata.get("sets")
        self.max_pixels = max_pixels
        self._session = session
        self._input = session.get_inputs()[0].name
        n_outputs = 1 if self.unknown_below is None else 2
        self._outputs = [output.name for output in session.get_outputs()[:n_outputs]]
        self._source = source

    @classmethod
    def load(cls, path: str | Path, *, threads: int | None = None, max_pixels: int = MAX_PIXELS) -> "Package":
        """Return the classifier of an ONNX file that has darkroom's metadata.

        Runs on CUDA where the installed ONNX Runtime has it, otherwise on the CPU.

        Args:
            threads: CPU threads of one inference; None: every core that this process may use.
            max_pixels: maximum height x width of an encoded image.

        Raises:
            ValueError: there is no such file, it is not ONNX, or it was not made by darkroom.
            ImportError: ONNX Runtime is not installed.
        """
        try:
            import onnxruntime  # whoever only reads images or trains may not have it
        except ImportError as error:
            raise _missing("onnxruntime", error) from None

        if not Path(path).is_file():
            raise ValueError(f"{path}: no such file; expected the model.onnx of a trained model")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors only: warnings about optimisations are of no use to a consumer
        options.intra_op_num_threads = threads or usable_cores()  # ONNX Runtime counts the machine's
        options.inter_op_num_threads = 1
        available = onnxruntime.get_available_providers()
        providers = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in available]
        try:
            session = onnxruntime.InferenceSession(str(path), sess_options=options, providers=providers)
        except Exception as error:  # the runtime's errors have no common base but this
            raise ValueError(f"{path}: ONNX Runtime cannot load this file: {one_line(error)}") from None
        metadata = _read_metadata(session, path)
        return cls(session, metadata, source=str(path), max_pixels=max_pixels)

    def decode(self, data: bytes) -> np.ndarray:
        """Return an encoded image as the network takes it: uint8 (height, width, channels), see `image_shape`.

        See images.prepare.

        Raises:
            ValueError: data are not an image, are an animation, truncated, or larger than max_pixels.
        """
        return self._prepared(data)

    def image(self, item: Item, *, paths: bool = True) -> np.ndarray:
        """Return one item of `predict` as the network takes it: uint8 (height, width, channels).

        An item is the bytes of an image file; a Path; pixels as a uint8 array (H, W), (H, W, 1) or (H, W, 3) RGB of any
        size; or a str, which is the path of an existing file, else a `data:` URI or base64 of an image file. Pass
        `paths=False` for untrusted input: otherwise a str could name any file that the process may read.

        Args:
            paths: whether a str may be a path.

        Raises:
            ValueError: the item is none of these, has more than MAX_BYTES, or is not an image.
        """
        return image_of(item, self._prepared, paths=paths, max_bytes=self.MAX_BYTES)

    def probabilities(self, images: np.ndarray, *, batch_size: int = 256) -> np.ndarray:
        """Return float32 (n, classes), rows sum to 1, for uint8 images (n, height, width, channels), n may be 0.

        Raises:
            ValueError: the images have another shape or type, or the network's output is not probabilities.
        """
        return self._run(images, self._outputs[:1], batch_size=batch_size)[0]

    def strangeness(self, images: np.ndarray, *, batch_size: int = 256) -> np.ndarray:
        """Return how strange each image is to the network, float32 (n,); see answers.

        Raises:
            ValueError: see probabilities; or the model cannot tell.
        """
        if self.unknown_below is None:
            raise ValueError(f"{self._source}: the model does not tell how strange an image is")
        return self._run(images, self._outputs[1:2], batch_size=batch_size)[0]

    def answers(self, images: np.ndarray, *, batch_size: int = 256) -> tuple[np.ndarray, np.ndarray | None]:
        """Return probabilities and the familiarity of each image: float64 (n,) in (0, 1].

        Familiarity is the share of known images, held out from training, that look at least as strange to the network.
        None if the model cannot tell.
        """
        probabilities, *more = self._run(images, self._outputs, batch_size=batch_size)
        return probabilities, familiarities(more[0], self.metadata["familiarity"]) if more else None

    def _run(self, images: np.ndarray, outputs: list[str], *, batch_size: int) -> list[np.ndarray]:
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != self.image_shape:
            expected = ", ".join(str(side) for side in self.image_shape)
            raise ValueError(f"expected uint8 images (n, {expected}), got {images.dtype} {images.shape}")
        starts = range(0, len(images), batch_size)
        batches = (np.ascontiguousarray(images[start : start + batch_size]) for start in starts)
        found = [self._session.run(outputs, {self._input: batch}) for batch in batches]
        shapes = dict(zip(self._outputs, ((0, len(self.classes)), (0,)), strict=False))
        result = [
            np.concatenate([np.empty(shapes[name], np.float32), *(parts[number] for parts in found)])
            for number, name in enumerate(outputs)
        ]
        if not all(np.isfinite(values).all() for values in result):
            raise ValueError(f"{self._source}: the network returned a non-finite probability; retrain it")
        return result

    def predict(self, items: Sequence[Item], *, batch_size: int = 256, paths: bool = True) -> list[dict[str, Any]]:
        """Return one answer per item; see image for the types of items.

        An answer has label (the most probable class), probability (of that class), probabilities (a dict by class) and
        abstained: whether the probability is below the model's threshold, if it has one; the label is given anyway. If
        the model can tell, it also has familiarity (see answers), and unknown: whether that is below unknown_below;
        then it is abstained too. If the model has sets, prediction_set lists the classes that contain the true one with
        their coverage, the most probable first. Only batch_size images are in memory at a time.

        Raises:
            ValueError: an item is not an image; the message names its position.
        """
        if isinstance(items, str | bytes | Path):
            raise ValueError(f"expected a sequence of images, got one {type(items).__name__}; put it in a list")
        return [
            answer
            for start in range(0, len(items), batch_size)
            for answer in self._answered(
                self._images(items[start : start + batch_size], start, paths=paths), batch_size=batch_size
            )
        ]

    def abstains(self, probabilities: np.ndarray, familiarity: np.ndarray | None = None) -> np.ndarray:
        """Return which images are not answered, by their probabilities (n, classes) and familiarity (n,): bool (n,)."""
        unsure = probabilities.max(axis=1, initial=0) < (self.abstain_below or 0.0)
        return np.asarray(unsure if familiarity is None else unsure | (familiarity < (self.unknown_below or 0.0)))

    def prediction_sets(self, probabilities: np.ndarray) -> np.ndarray | None:
        """Return which classes are in the prediction set of each image, bool (n, classes); None without sets.

        Args:
            probabilities: (n, classes), see probabilities.
        """
        if self.sets is None:
            return None
        scores = set_scores(probabilities, penalty=self.sets["penalty"], free=self.sets["free"])
        return np.asarray(scores <= self.sets["threshold"])

    def latencies_ms(self, image: np.ndarray, *, repeats: int, warm_up: int = 10) -> np.ndarray:
        """Return the latencies in milliseconds for one decoded image (uint8): float64 (repeats,)."""
        result = np.empty(repeats)
        for repeat in range(-warm_up, repeats):
            start = time.perf_counter()
            self.answers(image[np.newaxis])
            if repeat >= 0:
                result[repeat] = (time.perf_counter() - start) * 1000
        return result

    def _prepared(self, content: bytes | np.ndarray) -> np.ndarray:
        return prepare(content, self.form, max_pixels=self.max_pixels)[0]

    def _images(self, items: Sequence[Item], first: int, *, paths: bool) -> np.ndarray:
        images = np.empty((len(items), *self.image_shape), np.uint8)
        for position, item in enumerate(items):
            try:
                images[position] = self.image(item, paths=paths)
            except ValueError as error:
                raise ValueError(f"item {first + position}: {error}") from None
        return images

    def _answered(self, images: np.ndarray, *, batch_size: int) -> Iterator[dict[str, Any]]:
        probabilities, familiarity = self.answers(images, batch_size=batch_size)
        abstained, members = self.abstains(probabilities, familiarity).tolist(), self.prediction_sets(probabilities)
        for position, row in enumerate(probabilities):
            best = int(row.argmax())
            answer = {
                "label": self.classes[best],
                "probability": float(row[best]),
                "probabilities": dict(zip(self.classes, row.tolist(), strict=True)),
                "abstained": abstained[position],
            }
            if familiarity is not None:
                answer["familiarity"] = float(familiarity[position])
                answer["unknown"] = bool(familiarity[position] < (self.unknown_below or 0.0))
            if members is not None:
                ordered = np.argsort(-row, kind="stable")
                answer["prediction_set"] = [self.classes[number] for number in ordered if members[position, number]]
            yield answer

    @property
    def columns(self) -> list[str]:
        """The keys of an answer."""
        told = [] if self.unknown_below is None else ["familiarity", "unknown"]
        listed = [] if self.sets is None else ["prediction_set"]
        return ["label", "probability", "probabilities", "abstained", *told, *listed]


def _read_metadata(session: Any, path: str | Path) -> dict[str, Any]:
    text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    if text is None:
        raise ValueError(f"{path}: the file has no metadata {METADATA_KEY!r}; expected a model exported by darkroom")
    try:
        metadata = json.loads(text)
        classes, shape, color = list(metadata["classes"]), list(metadata["image_shape"]), metadata["color"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: the metadata {METADATA_KEY!r} is not valid: {one_line(error)}") from None
    if metadata.get("unknown_below") is not None and len(session.get_outputs()) < 2:
        raise ValueError(
            f"{path}: the metadata has unknown_below, but the network does not tell how strange images are"
        )
    if color not in ("grey", "rgb") or shape[2:] != [1 if color == "grey" else 3]:
        raise ValueError(f"{path}: color {color!r} and image_shape {shape} in the metadata contradict each other")
    entrance, leaving = session.get_inputs()[0], session.get_outputs()[0]
    if entrance.type != "tensor(uint8)" or entrance.shape[1:] != shape or leaving.shape[1:] != [len(classes)]:
        raise ValueError(
            f"{path}: the network maps {entrance.type} {entrance.shape} to {leaving.shape}, but its metadata says "
            f"tensor(uint8) ['n', {', '.join(map(str, shape))}] to ['n', {len(classes)}]"
        )
    return dict(metadata, classes=classes)

"""An ONNX classifier for other model servers, as in their documentation; benchmarks/serve.py measures them.

serving_fastapi.py, serving_litserve.py and serving_bentoml.py each start a process per core, with one thread of ONNX
Runtime, decode with OpenCV and answer label and probabilities. FastAPI gets the image file, LitServe and BentoML get
base64 in JSON, which both accept without more code. None of them checks an image before decoding, follows a registry,
or keeps a log.
"""

import json
import os
from typing import Any

import cv2
import numpy as np
import onnxruntime

from benchmarks.peers import MODEL

N_CORES = len(os.sched_getaffinity(0))


class Classifier:
    """The ONNX file and its metadata."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(os.environ[MODEL], options, providers=["CPUExecutionProvider"])
        said = json.loads(self._session.get_modelmeta().custom_metadata_map["darkroom"])
        self._classes, self._shape = said["classes"], said["image_shape"]
        self._input = self._session.get_inputs()[0].name

    def answer(self, data: bytes) -> dict[str, Any]:
        """Return label and probabilities of an image file."""
        height, width, channels = self._shape
        flag = cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR_RGB
        image: Any = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
        if image.shape[:2] != (height, width):
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        row = self._session.run(None, {self._input: image.reshape(1, *self._shape)})[0][0]
        probabilities = dict(zip(self._classes, row.tolist(), strict=True))
        return {"label": self._classes[int(row.argmax())], "probabilities": probabilities}

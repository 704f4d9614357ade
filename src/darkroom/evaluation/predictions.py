"""Write and read predictions.parquet: the answers of each candidate on the images of the splits test and recent."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from darkroom.data.arrays.dataset import Dataset
from darkroom.errors import DataError
from darkroom.files.writing import replacing

if TYPE_CHECKING:
    import pandas as pd

    from darkroom.evaluation.candidates import Candidate


def write_predictions(
    candidates: "Sequence[Candidate]", test: "pd.DataFrame", recent: "pd.DataFrame", classes: Sequence[str], path: Path
) -> None:
    """Write one line per candidate and image: candidate, split, id, label, predicted, confidence, probabilities.

    Args:
        test, recent: the index lines of the classified images.
    """
    import pandas as pd

    names = np.array(classes, dtype=object)
    tables = [
        pd.DataFrame(
            {
                "candidate": candidate.name,
                "split": lines["split"].to_numpy(),
                "id": lines["id"].to_numpy(),
                "label": lines["label"].to_numpy(),
                "predicted": names[probabilities.argmax(axis=1)],
                "confidence": probabilities.max(axis=1),
                "probabilities": list(probabilities),
            }
        )
        for candidate in candidates
        for lines, probabilities in ((test, candidate.probabilities), (recent, candidate.recent_probabilities))
    ]
    with replacing(path) as part:
        pd.concat(tables, ignore_index=True).to_parquet(part, index=False, compression="zstd")


@dataclass(frozen=True)
class Predictions:
    """The answers of one model on a split: id, true and predicted class, and probabilities per image.

    Attributes:
        split: test or recent; there may be no recent images.
        ids, labels, predicted: (n,), str.
        probabilities: (n, classes), float.
    """

    split: str
    ids: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray

    @property
    def correct(self) -> np.ndarray:
        """(n,), bool."""
        return np.asarray(self.predicted == self.labels)


def read_predictions(path: Path, candidate: str, *, split: str) -> Predictions:
    """Return the candidate's rows of predictions.parquet for a split, test or recent.

    Raises:
        DataError: the file is missing, was not written by evaluate, or has no row of this candidate.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = ["id", "label", "predicted", "split", "probabilities"]
    try:
        table = pq.read_table(path, columns=columns, filters=[("candidate", "=", candidate)])
    except (OSError, pa.ArrowException) as error:
        first = str(error).splitlines()[0]
        raise DataError(f"{path} cannot be read: {first}; run `dvc repro --force evaluate`") from None
    if table.num_rows == 0:
        raise DataError(f"{path} has no predictions of the candidate {candidate!r}; run `dvc repro --force evaluate`")
    ids, labels, predicted, splits = (np.array(table[name].to_pylist(), dtype=str) for name in columns[:4])
    own = splits == split
    return Predictions(split, ids[own], labels[own], predicted[own], np.array(table["probabilities"].to_pylist())[own])


def answered_rows(dataset: Dataset, answers: Predictions) -> np.ndarray:
    """Return the row numbers of the classified images, int64 (n,).

    Raises:
        DataError: an image is not in that split, because the data have changed since the evaluation.
    """
    index = dataset.index()
    own = index[index["split"] == answers.split]
    rows = dict(zip(own["id"], own["row"], strict=True))
    if unknown := [image for image in answers.ids.tolist() if image not in rows]:
        raise DataError(
            f"{len(unknown)} of {len(answers.ids)} evaluated images are not in the split {answers.split} of "
            f"{dataset.directory} (first: {unknown[0][:16]}...); the data has changed, run `dvc repro evaluate`"
        )
    return np.array([rows[image] for image in answers.ids.tolist()], np.int64)

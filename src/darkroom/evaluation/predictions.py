"""Write and read predictions.parquet: the answers of each candidate on the test images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from darkroom.data.arrays.dataset import Dataset
from darkroom.errors import DataError
from darkroom.files.writing import replacing

if TYPE_CHECKING:
    from darkroom.evaluation.candidates import Candidate


def write_predictions(
    candidates: "Sequence[Candidate]", labels: np.ndarray, ids: Sequence[str], classes: Sequence[str], path: Path
) -> None:
    """Write one line per candidate and test image: candidate, id, label, predicted, confidence, probabilities."""
    import pandas as pd

    names = np.array(classes, dtype=object)
    tables = [
        pd.DataFrame(
            {
                "candidate": candidate.name,
                "id": ids,
                "label": names[labels],
                "predicted": names[candidate.probabilities.argmax(axis=1)],
                "confidence": candidate.probabilities.max(axis=1),
                "probabilities": list(candidate.probabilities),
            }
        )
        for candidate in candidates
    ]
    with replacing(path) as part:
        pd.concat(tables, ignore_index=True).to_parquet(part, index=False, compression="zstd")


@dataclass(frozen=True)
class Predictions:
    """The answers of one model: per test image its id, true and predicted class name, and the probabilities.

    Attributes:
        ids, labels, predicted: (n,), str.
        probabilities: (n, classes), float.
    """

    ids: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray

    @property
    def correct(self) -> np.ndarray:
        """(n,), bool."""
        return np.asarray(self.predicted == self.labels)


def read_predictions(path: Path, candidate: str) -> Predictions:
    """Return the candidate's rows of predictions.parquet.

    Raises:
        DataError: the file is missing or not what evaluate writes, or has no row of this candidate.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = ["id", "label", "predicted", "probabilities"]
    try:
        table = pq.read_table(path, columns=columns, filters=[("candidate", "=", candidate)])
    except (OSError, pa.ArrowException) as error:
        first = str(error).splitlines()[0]
        raise DataError(f"{path} cannot be read: {first}; run `dvc repro --force evaluate`") from None
    if table.num_rows == 0:
        raise DataError(f"{path} has no predictions of the candidate {candidate!r}; run `dvc repro --force evaluate`")
    ids, labels, predicted = (np.array(table[name].to_pylist(), dtype=str) for name in columns[:3])
    return Predictions(ids, labels, predicted, np.array(table["probabilities"].to_pylist()))


def test_rows(dataset: Dataset, ids: np.ndarray) -> np.ndarray:
    """Return the row numbers of the test images with these ids, in this order.

    Raises:
        DataError: an id is not one of the test images: the data have changed since the evaluation.
    """
    index = dataset.index()
    test = index[index["split"] == "test"]
    rows = dict(zip(test["id"], test["row"], strict=True))
    if unknown := [image for image in ids.tolist() if image not in rows]:
        raise DataError(
            f"{len(unknown)} of {len(ids)} evaluated images are not in the test set of {dataset.directory} (first: "
            f"{unknown[0][:16]}...); the data has changed, run `dvc repro evaluate`"
        )
    return np.array([rows[image] for image in ids.tolist()])

"""The section `download` of params.yaml."""

from typing import Annotated

from pydantic import BeforeValidator

from darkroom.data.download.catalogue import Dataset, find_dataset
from darkroom.project.params import Section


class DownloadParams(Section):
    """The section `download`: the dataset."""

    dataset: Annotated[Dataset, BeforeValidator(find_dataset)]  # a name in datasets.yaml, or an entry of that shape

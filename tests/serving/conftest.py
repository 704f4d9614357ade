"""Fixtures that several tests of the server share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.served import served_repository


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A repository whose champion is never wrong; of each module its own."""
    with served_repository(tmp_path_factory.mktemp("served")) as root:
        yield root

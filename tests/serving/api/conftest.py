"""One live service for all tests of the interface."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from serving import running_service


@pytest.fixture(scope="session")
def url(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("service") / "service.log"
    with running_service(exported, log) as address:
        yield address


@pytest.fixture(scope="session")
def photo(photographs: Path) -> bytes:
    return (photographs / "chelsea.jpg").read_bytes()

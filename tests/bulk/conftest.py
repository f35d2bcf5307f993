"""Fixtures: images of several kinds, some unreadable, and what a whole run makes of them."""

import os
import shutil
from pathlib import Path

import pytest
from rich.progress import Progress

from bulk import ProcessEngine, Summary, embed


@pytest.fixture(scope="session")
def mixed(
    digits: Path, photographs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The digits by class and the photographs beside them, two of which are damaged."""
    folder = tmp_path_factory.mktemp("bulk") / "mixed"
    shutil.copytree(digits, folder)
    shutil.copytree(photographs, folder / "photographs")
    whole = (photographs / "coffee.jpg").read_bytes()
    (folder / "photographs" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "photographs" / "empty.png").touch()
    return folder


@pytest.fixture(scope="session")
def many(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough photographs to be stopped among them: 600 names of 12 files."""
    folder = tmp_path_factory.mktemp("bulk") / "many"
    folder.mkdir()
    files = sorted(photographs.glob("*.jpg"))
    for number in range(600):
        os.link(files[number % len(files)], folder / f"{number:04}.jpg")
    return folder


def whole(bundle: Path, images: Path, folder: Path) -> Summary:
    """An uninterrupted run by one worker."""
    return embed(
        bundle,
        str(images),
        folder / "out.parquet",
        Progress(disable=True),
        engine=ProcessEngine(workers=1),
    )


@pytest.fixture(scope="session")
def embedded(
    exported: Path, mixed: Path, tmp_path_factory: pytest.TempPathFactory
) -> Summary:
    return whole(exported, mixed, tmp_path_factory.mktemp("embedded"))


@pytest.fixture(scope="session")
def many_embedded(
    exported: Path, many: Path, tmp_path_factory: pytest.TempPathFactory
) -> Summary:
    return whole(exported, many, tmp_path_factory.mktemp("many-embedded"))

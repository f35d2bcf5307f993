"""Fixtures: images of several kinds, some unreadable, and the output of a whole run."""

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from rich.progress import Progress

from isogon.bulk import Executor, ProcessExecutor, Summary, embed
from isogon.bulk.executors.executor import Finished
from isogon.bulk.job import BulkJob


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
    """Enough photographs to stop a run among them: 600 names of 12 files."""
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
        executor=ProcessExecutor(workers=1),
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


class StoppingExecutor(Executor):
    """Real workers, stopped by the user after some parts."""

    def __init__(self, after: int) -> None:
        self._executor, self._after = ProcessExecutor(workers=2), after

    def decoders(self, *, on_gpu: bool) -> int:
        return self._executor.decoders(on_gpu=on_gpu)

    def run(self, job: BulkJob, parts: Sequence[int]) -> Finished:
        with closing(self._executor.run(job, parts)) as finished:
            for number, part in enumerate(finished):
                if number == self._after:
                    raise KeyboardInterrupt
                yield part


@pytest.fixture
def stopping() -> Callable[[int], Executor]:
    """Return executors that are stopped after this number of parts."""
    return StoppingExecutor


@pytest.fixture(scope="session")
def stopped_once(
    exported: Path,
    mixed: Path,
    progress: Progress,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The folder of a run that was stopped after two of its four parts."""
    output = tmp_path_factory.mktemp("stopped") / "out.parquet"
    with pytest.raises(KeyboardInterrupt):
        embed(exported, str(mixed), output, progress, executor=StoppingExecutor(2))
    return output.parent


@pytest.fixture
def stopped(stopped_once: Path, tmp_path: Path) -> Path:
    """A copy of such an output for one test."""
    return Path(shutil.copytree(stopped_once, tmp_path / "stopped")) / "out.parquet"

"""Marks distinguish a worker's copy of the images from the copy of the job's start."""

import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from isogon.bulk.job import marks_of, require_marked
from isogon.errors import UsageError
from isogon.images import open_images


@pytest.fixture
def begun_with(photographs: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "begun"
    folder.mkdir()
    for path in sorted(photographs.iterdir())[:3]:
        shutil.copy(path, folder)
    return folder


def test_a_true_copy_with_other_dates_passes(begun_with: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(begun_with, tmp_path / "copy"))
    for path in copy.iterdir():
        os.utime(path, (0, 0))
    ours, theirs = open_images(str(begun_with)), open_images(str(copy))
    marks = marks_of(ours, range(3))
    assert len(set(marks)) == 3 and 0 not in marks
    require_marked(theirs, range(3), marks)


def test_a_missing_a_longer_and_a_stale_file_are_refused_by_name(begun_with: Path) -> None:
    images = open_images(str(begun_with))
    marks = marks_of(images, range(3))
    first, second, third = (images.file(index) for index in range(3))
    assert first and second and third
    first.unlink()
    second.write_bytes(second.read_bytes() + b"\0")
    content = third.read_bytes()
    copy = third.with_name("copy.jpg")  # of the same size, decoded like the first
    copy.write_bytes(bytes(reversed(content)))
    copy.replace(third)
    for index, why in ((0, "cannot be read there"), (1, "another size"), (2, "content")):
        path = images.file(index)
        with pytest.raises(UsageError, match=rf"{path} .*{why}"):
            require_marked(images, [index], [marks[index]])


def test_what_cannot_be_read_at_the_start_is_not_a_nodes_fault(begun_with: Path) -> None:
    images = open_images(str(begun_with))
    path = images.file(1)
    assert path is not None
    content = path.read_bytes()
    path.unlink()
    marks = marks_of(images, range(3))
    assert marks[1] == 0
    require_marked(images, range(3), marks)
    path.write_bytes(content)
    require_marked(images, range(3), marks)


def test_images_in_one_parquet_file_share_its_mark(begun_with: Path) -> None:
    table = pa.table(
        {"image": [path.read_bytes() for path in sorted(begun_with.iterdir())]}
    )
    file = begun_with / "images.parquet"
    pq.write_table(table, file)
    images = open_images(str(file))
    marks = marks_of(images, np.arange(3).tolist())
    assert len(marks) == 3 and len(set(marks)) == 1 and marks[0]

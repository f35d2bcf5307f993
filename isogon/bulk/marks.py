"""Digests by which a worker on another machine checks that it reads the same files.

A mark is a digest of a file's size and content: of all of it up to 64 KiB, else of 16
blocks spread evenly over it. Times of change do not count: copies differ in them.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from isogon.errors import UsageError
from isogon.images import Images

Marks = tuple[int, ...]  # one for each image; 0 where there is nothing to compare

_BLOCK, _BLOCKS = 4096, 16
_READERS = 16  # threads: a file server answers late rather than slowly


def marks_of(images: Images, indices: Sequence[int]) -> Marks:
    """Return the marks of the files that hold these images, as they are here."""

    def mark(path: Path) -> int:
        try:
            return _mark(path)
        except OSError:  # unreadable here, so whatever a worker finds is as good
            return 0

    paths = [images.file(index) for index in indices]
    files = list({path for path in paths if path is not None})  # an archive holds many
    with ThreadPoolExecutor(_READERS) as pool:
        marks = dict(zip(files, pool.map(mark, files), strict=True))
    return tuple(0 if path is None else marks[path] for path in paths)


def require_marked(images: Images, indices: Sequence[int], marks: Marks) -> None:
    """Refuse files that are not here what they were where the job was begun.

    Raises:
        UsageError: one cannot be read, or has another size or content.
    """
    paths = map(images.file, indices)
    for path, expected in dict(zip(paths, marks, strict=True)).items():
        if path is None or not expected:
            continue
        try:
            found = _mark(path)
        except OSError as error:
            raise UsageError(f"{path} cannot be read there: {error}") from error
        if found != expected:
            raise UsageError(f"{path} has another size or content there")


def _mark(path: Path) -> int:
    """Return the mark of a file, never 0.

    Raises:
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    digest = hashlib.blake2b(size.to_bytes(8), digest_size=8)
    with path.open("rb", buffering=0) as file:
        if size <= _BLOCK * _BLOCKS:
            digest.update(file.read())
        else:
            for number in range(_BLOCKS):
                file.seek((size - _BLOCK) * number // (_BLOCKS - 1))
                digest.update(file.read(_BLOCK))
    return int.from_bytes(digest.digest()) | 1

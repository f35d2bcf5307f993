"""Which pairs, images and neighbours of an evaluation the report shows."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float32, Int, UInt8
from PIL import Image

from distill.report.drawn import CosinePairs, Picture, Query
from isogon.ood.blocks import in_blocks
from isogon.ood.neighbours import nearest

PAIRS = 4000  # points of the cosine scatter
QUERIES = 6  # images whose neighbours are shown
SHOWN = 8  # neighbours of each
THUMBNAIL = 72  # pixels, the longer side


def sample_cosines(
    teacher_test: Float32[np.ndarray, "test t"],
    teacher_bank: Float32[np.ndarray, "bank t"],
    student_test: Float32[np.ndarray, "test s"],
    student_bank: Float32[np.ndarray, "bank s"],
    *,
    seed: int = 0,
) -> CosinePairs:
    """Return the cosines of `PAIRS` test-bank pairs, half of them near neighbours.

    Random pairs alone would show few high cosines, and those decide what a search
    returns. So every second pair joins a test image to one of its ten nearest bank
    images under the teacher.
    """
    generator = np.random.default_rng(seed)
    rows = generator.integers(0, len(teacher_test), PAIRS)
    columns = generator.integers(0, len(teacher_bank), PAIRS)
    near = rows[1::2]
    images, place = np.unique(near, return_inverse=True)
    kept = min(10, len(teacher_bank))
    cosines = teacher_test[images] @ teacher_bank.T
    nearest = np.argpartition(-cosines, kept - 1, axis=1)[:, :kept]
    columns[1::2] = nearest[place, generator.integers(0, kept, len(near))]
    return CosinePairs(
        teacher=(teacher_test[rows] * teacher_bank[columns]).sum(axis=1),
        student=(student_test[rows] * student_bank[columns]).sum(axis=1),
    )


def sample_queries(
    student_test: Float32[np.ndarray, "test s"],
    student_bank: Float32[np.ndarray, "bank s"],
    teacher_test: Float32[np.ndarray, "test t"] | None,
    teacher_bank: Float32[np.ndarray, "bank t"] | None,
    *,
    test_picture: Callable[[int], Picture],
    bank_picture: Callable[[int], Picture],
) -> tuple[Query, ...]:
    """Return `QUERIES` test images with their nearest of the bank, nearest first.

    The images are spread evenly from the one whose neighbours the student keeps worst
    to the one it keeps best; without a teacher, over the test images.

    Args:
        student_test: unit-norm embeddings, as all of these.
        student_bank: of the images to search.
        teacher_test: the same images by the teacher; None without one.
        teacher_bank: given when `teacher_test` is.
        test_picture: from the place of a test image to what is shown of it.
        bank_picture: the same for the bank.
    """
    ours = _ranked(student_test, student_bank)
    theirs = None
    order = np.arange(len(ours))
    if teacher_test is not None and teacher_bank is not None:
        theirs = _ranked(teacher_test, teacher_bank)
        kept = (ours[:, :, None] == theirs[:, None, :]).any(axis=2).sum(axis=1)
        order = np.argsort(kept, kind="stable")
    places = np.linspace(0, len(order) - 1, QUERIES).round().astype(int)

    def pictures(row: Int[np.ndarray, " shown"]) -> tuple[Picture, ...]:
        return tuple(bank_picture(int(place)) for place in row)

    return tuple(
        Query(
            image=test_picture(int(chosen)),
            student=pictures(ours[chosen]),
            teacher=None if theirs is None else pictures(theirs[chosen]),
        )
        for chosen in order[np.unique(places)]
    )


def thumbnail(pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "_ _ 3"]:
    """Return the image with its longer side at most `THUMBNAIL` pixels."""
    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    return np.asarray(image)


def _ranked(
    test: Float32[np.ndarray, "test d"], bank: Float32[np.ndarray, "bank d"]
) -> Int[np.ndarray, "test shown"]:
    def ranked(some: Float32[np.ndarray, "n d"]) -> Int[np.ndarray, "n shown"]:
        cosines = some @ bank.T
        found = nearest(cosines, min(SHOWN, len(bank)))
        values = np.take_along_axis(cosines, found, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        return np.take_along_axis(found, order, axis=1)

    return in_blocks(ranked, test)

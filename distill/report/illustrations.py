"""What the report shows beside figures: points, pictures, neighbours and a map.

Familiar images are in-distribution, unfamiliar ones out-of-distribution (OOD).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int, UInt8
from PIL import Image

from isogon.bundle import Manifest
from isogon.ood.neighbours import in_blocks, nearest

UNFAMILIAR = -1  # in `EmbeddingMap.labels`
PAIRS = 4000  # points of the cosine scatter
QUERIES = 6  # images whose neighbours are shown
SHOWN = 8  # neighbours of each of them
THUMBNAIL = 72  # pixels, the longer side
MAPPED = 1200  # points of a map, at most
SPOTLIT = 10  # classes that get a colour, at most


@dataclass(frozen=True, kw_only=True, slots=True)
class CosinePairs:
    """The cosines of the same image pairs under both models."""

    teacher: Float32[np.ndarray, " m"]
    student: Float32[np.ndarray, " m"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PlottedScores:
    """The student's OOD scores by the detector in force; larger is less familiar."""

    detector: str
    alpha: float  # the false-alarm rate that was asked for
    calibrated_on: int  # familiar images
    threshold: float  # a score above it is flagged; see `Calibration.threshold`
    familiar: Float[np.ndarray, " t"]  # of test images
    unfamiliar: Mapping[str, Float[np.ndarray, " _"]]  # by set


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One small image, as the report shows it."""

    index: int  # in its set; two pictures with one index are the same image
    pixels: UInt8[np.ndarray, "h w 3"]
    label: str | None = None  # the name of its class


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """A test image and its nearest images of the bank, nearest first."""

    image: Picture
    student: tuple[Picture, ...]
    teacher: tuple[Picture, ...] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingMap:
    """Embeddings of test and unfamiliar images in the plane; see `embedding_map`."""

    student: Float[np.ndarray, "n 2"]
    teacher: Float[np.ndarray, "n 2"] | None  # the same images, in the same order
    labels: Int[np.ndarray, " n"]  # class numbers, or UNFAMILIAR; zeros without classes
    classes: tuple[str, ...]  # their names; empty without classes


@dataclass(frozen=True, kw_only=True, slots=True)
class Illustrations:
    """Everything on the page that is not in `evaluation.json`."""

    manifest: Manifest  # name, models and provenance; `files` is not used
    recipe: str  # as TOML
    cosines: CosinePairs | None = None  # None without teacher embeddings
    scores: PlottedScores | None = None
    queries: tuple[Query, ...] = ()
    map: EmbeddingMap | None = None


def sample_cosines(
    teacher_test: Float32[np.ndarray, "test t"],
    teacher_bank: Float32[np.ndarray, "bank t"],
    student_test: Float32[np.ndarray, "test s"],
    student_bank: Float32[np.ndarray, "bank s"],
    *,
    seed: int = 0,
) -> CosinePairs:
    """Return the cosines of `PAIRS` test-bank pairs, half of them near neighbours.

    Random pairs alone would have few high cosines, and high cosines decide what a search
    returns. So every second pair is a test image and one of its ten nearest bank images
    by the teacher.
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
    """Return `QUERIES` test images with their nearest bank images, nearest first.

    The images are chosen evenly between the one whose neighbours the student keeps worst
    and the one it keeps best; without a teacher, evenly among the test images.

    Args:
        student_test: unit-norm embeddings of the test images.
        student_bank: unit-norm embeddings of the images to search.
        teacher_test: the same images by the teacher; None without one.
        teacher_bank: the same; None without a teacher.
        test_picture: from a test image's position to its picture.
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


def report_thumbnail(pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "_ _ 3"]:
    """Return the image with its longer side at most `THUMBNAIL` pixels."""
    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    return np.asarray(image)


def embedding_map(
    student: Float32[np.ndarray, "n s"],
    teacher: Float32[np.ndarray, "n t"] | None,
    labels: Int[np.ndarray, " n"] | None,
    student_unfamiliar: Float32[np.ndarray, "u s"] | None = None,
    teacher_unfamiliar: Float32[np.ndarray, "u t"] | None = None,
    *,
    classes: tuple[str, ...] = (),
    seed: int = 0,
) -> EmbeddingMap:
    """Place at most `MAPPED` images in the plane: PCA to 50 axes, then t-SNE.

    At most a fifth of the points are unfamiliar images. If there are more than `SPOTLIT`
    classes, `SPOTLIT` of them get more points than the rest.

    Reference: van der Maaten and Hinton, "Visualizing Data using t-SNE", JMLR 2008, in
    scikit-learn's implementation; Euclidean distances, which sort unit-norm vectors
    as their cosines do.
    """
    generator = np.random.default_rng(seed)
    doubted = 0 if student_unfamiliar is None else len(student_unfamiliar)
    outside = _choose(generator, doubted, MAPPED // 5)
    known = np.zeros(len(student), dtype=np.int64) if labels is None else labels
    inside = _choose_familiar(generator, known, MAPPED - len(outside))
    return EmbeddingMap(
        student=_plane(_joined(student, inside, student_unfamiliar, outside), seed),
        teacher=None
        if teacher is None
        else _plane(_joined(teacher, inside, teacher_unfamiliar, outside), seed),
        labels=np.concatenate([known[inside], np.full(len(outside), UNFAMILIAR)]),
        classes=() if labels is None else classes,
    )


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


def _choose_familiar(
    generator: np.random.Generator, labels: Int[np.ndarray, " n"], limit: int
) -> Int[np.ndarray, " chosen"]:
    classes = np.unique(labels)
    if len(classes) <= SPOTLIT or len(labels) <= limit:
        return _choose(generator, len(labels), limit)
    spotlit = classes[np.linspace(0, len(classes) - 1, SPOTLIT).astype(int)]
    is_spotlit = np.isin(labels, spotlit)
    seen, rest = np.flatnonzero(is_spotlit), np.flatnonzero(~is_spotlit)
    seen = seen[_choose(generator, len(seen), limit // 3)]
    rest = rest[_choose(generator, len(rest), limit - len(seen))]
    return np.concatenate([seen, rest])


def _choose(
    generator: np.random.Generator, count: int, limit: int
) -> Int[np.ndarray, " chosen"]:
    return np.sort(generator.permutation(count)[:limit])


def _joined(
    familiar: Float32[np.ndarray, "n d"],
    inside: Int[np.ndarray, " chosen"],
    unfamiliar: Float32[np.ndarray, "u d"] | None,
    outside: Int[np.ndarray, " doubted"],
) -> Float32[np.ndarray, "mapped d"]:
    both = [familiar[inside]]
    if unfamiliar is not None:
        both.append(unfamiliar[outside])
    return np.concatenate(both)


def _plane(embeddings: Float32[np.ndarray, "n d"], seed: int) -> Float[np.ndarray, "n 2"]:
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    axes = min(50, *embeddings.shape)
    reduced: np.ndarray = PCA(axes, random_state=seed).fit_transform(embeddings)
    if len(embeddings) < 10:  # too few for neighbourhoods: the first two axes
        return np.stack([reduced[:, 0], reduced[:, min(1, axes - 1)]], axis=1)
    perplexity = min(30.0, (len(embeddings) - 1) / 3)
    # 750 of the usual 1000 iterations: 3 s for 1200 points on one core, and almost equal.
    # One thread: sums in a fixed order, and no wait for a busy second core, which took 70 s
    # on a loaded machine with two cores.
    tsne = TSNE(2, perplexity=perplexity, init="pca", max_iter=750, random_state=seed)
    with threadpool_limits(1):
        placed: np.ndarray = tsne.fit_transform(reduced)
    return placed

"""Which points and images of an evaluation the report shows, and where on its map."""

import numpy as np
from jaxtyping import Float, Float32, Int, UInt8
from PIL import Image

from distill.report.drawn import UNFAMILIAR, CosinePairs, EmbeddingMap

PAIRS = 4000  # points of the cosine scatter
MAPPED = 1500  # points of a map
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

    A fifth of the points, at most, are unfamiliar images. Reference: van der Maaten
    and Hinton, "Visualizing Data using t-SNE", JMLR 2008; scikit-learn's
    implementation, on cosine distances' Euclidean equivalent (unit-norm vectors).
    """
    generator = np.random.default_rng(seed)
    doubted = 0 if student_unfamiliar is None else len(student_unfamiliar)
    outside = _choose(generator, doubted, MAPPED // 5)
    inside = _choose(generator, len(student), MAPPED - len(outside))
    known = np.zeros(len(student), dtype=np.int64) if labels is None else labels
    return EmbeddingMap(
        student=_plane(_joined(student, inside, student_unfamiliar, outside), seed),
        teacher=None
        if teacher is None
        else _plane(_joined(teacher, inside, teacher_unfamiliar, outside), seed),
        labels=np.concatenate([known[inside], np.full(len(outside), UNFAMILIAR)]),
        classes=() if labels is None else classes,
    )


def thumbnail(pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "_ _ 3"]:
    """Return the image with its longer side at most `THUMBNAIL` pixels."""
    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    return np.asarray(image)


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
    if unfamiliar is None:
        return familiar[inside]
    return np.concatenate([familiar[inside], unfamiliar[outside]])


def _plane(embeddings: Float32[np.ndarray, "n d"], seed: int) -> Float[np.ndarray, "n 2"]:
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    axes = min(50, *embeddings.shape)
    reduced: np.ndarray = PCA(axes, random_state=seed).fit_transform(embeddings)
    if len(embeddings) < 10:  # too few for neighbourhoods: the first two axes
        return np.stack([reduced[:, 0], reduced[:, min(1, axes - 1)]], axis=1)
    perplexity = min(30.0, (len(embeddings) - 1) / 3)
    tsne = TSNE(2, perplexity=perplexity, init="pca", random_state=seed)
    placed: np.ndarray = tsne.fit_transform(reduced)
    return placed

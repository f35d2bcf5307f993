"""Where images lie on the report's map of the embeddings."""

import numpy as np
from jaxtyping import Float, Float32, Int

from distill.report.drawn import UNFAMILIAR, EmbeddingMap

MAPPED = 1200  # points of a map
SPOTLIT = 10  # classes that get a colour


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

    A fifth of the points, at most, are unfamiliar images. Of more than `SPOTLIT`
    classes, so many are seen with more images than the rest.

    Reference: van der Maaten and Hinton, "Visualizing Data using t-SNE", JMLR 2008, in
    scikit-learn's implementation; Euclidean distances, which order unit-norm vectors
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


def _choose(
    generator: np.random.Generator, count: int, limit: int
) -> Int[np.ndarray, " chosen"]:
    return np.sort(generator.permutation(count)[:limit])


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

    axes = min(50, *embeddings.shape)
    reduced: np.ndarray = PCA(axes, random_state=seed).fit_transform(embeddings)
    if len(embeddings) < 10:  # too few for neighbourhoods: the first two axes
        return np.stack([reduced[:, 0], reduced[:, min(1, axes - 1)]], axis=1)
    perplexity = min(30.0, (len(embeddings) - 1) / 3)
    # 750 of the usual 1000 iterations: 3 s for 1200 points on one core, hardly different.
    tsne = TSNE(2, perplexity=perplexity, init="pca", max_iter=750, random_state=seed)
    placed: np.ndarray = tsne.fit_transform(reduced)
    return placed

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from rich.progress import Progress

from distill import Recipe
from distill.images.listing import open_source
from distill.images.loading import ViewBatch
from distill.targets import GivenTeacher, Teacher, given_embeddings, teacher_from_recipe
from isogon.errors import UsageError
from isogon.images import ImageFolder

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images(flat_digits: Path) -> ImageFolder:
    return ImageFolder.list(flat_digits)


@pytest.fixture(scope="module")
def vectors(images: ImageFolder) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((len(images), 6)).astype(np.float32)


def teacher(recipe: Recipe, images: ImageFolder, path: Path, **more: str) -> Teacher:
    section = type(recipe.teacher)(path=str(path), **more)
    return teacher_from_recipe(recipe.model_copy(update={"teacher": section}), images)


def parquet(path: Path, names: list[str], embeddings: object, key: str = "name") -> Path:
    pq.write_table(pa.table({key: names, "embedding": embeddings}), path)
    return path


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_rows_of_an_array_are_the_images_in_order_of_their_names(
    recipe: Recipe,
    images: ImageFolder,
    vectors: np.ndarray,
    tmp_path: Path,
    progress: Progress,
    dtype: type,
) -> None:
    path = tmp_path / "clip.npy"
    np.save(path, vectors.astype(dtype))
    given = teacher(recipe, images, path, name="CLIP by API", license="theirs")
    assert isinstance(given, GivenTeacher)
    assert (given.card.architecture, given.card.licence) == ("CLIP by API", "theirs")
    assert (given.card.width, given.card.weights, given.embed) == (6, "clip.npy", None)
    indices = np.array([7, 3, 7])
    expected = torch.from_numpy(vectors[indices].astype(dtype).astype(np.float32))
    targets = given.targets(np.arange(60), CPU, progress)
    batch = ViewBatch(
        pixels=torch.zeros(3, 8, 8, 3, dtype=torch.uint8),
        indices=torch.from_numpy(indices),
        numbers=torch.tensor([0, 5, 9]),
        labels=None,
    )
    features = targets.features(batch)
    assert (targets.width, targets.replayed, features.grid) == (6, None, (0, 0))
    assert torch.equal(features.tokens, expected[:, None])
    assert np.array_equal(
        given.pooled(indices, CPU, progress), vectors[indices].astype(dtype)
    )
    (sample,) = given.sample(indices, CPU)
    assert torch.equal(sample.tokens, expected[:, None])


@pytest.mark.parametrize("key", ["name", "path"])
@pytest.mark.parametrize(
    "kind",
    [pa.list_(pa.float32()), pa.list_(pa.float16(), 6), pa.large_list(pa.float64())],
    ids=str,
)
def test_rows_of_a_table_are_found_by_name(
    images: ImageFolder, vectors: np.ndarray, tmp_path: Path, key: str, kind: pa.DataType
) -> None:
    order = np.random.default_rng(1).permutation(60)
    value = {"halffloat": np.float16}.get(str(kind.value_type), np.float64)
    rows = [vectors[i].astype(value) for i in order] + [np.ones(6, value)]
    names = [images.names[i] for i in order] + ["not an image.png"]
    path = parquet(tmp_path / "e.parquet", names, pa.array(rows, kind), key)
    expected = vectors.astype(np.float16) if value is np.float16 else vectors
    assert np.array_equal(given_embeddings(path, images), expected)


def test_integers_name_images_that_are_named_by_their_row(
    images: ImageFolder, vectors: np.ndarray, tmp_path: Path
) -> None:
    held = [(images.root / name).read_bytes() for name in images.names]
    pq.write_table(pa.table({"image": held}), tmp_path / "images.parquet")
    order = np.random.default_rng(1).permutation(60)
    table = pa.table({"name": order, "embedding": list(vectors[order])})
    pq.write_table(table, tmp_path / "e.parquet")
    rows = open_source(str(tmp_path / "images.parquet"))
    assert np.array_equal(given_embeddings(tmp_path / "e.parquet", rows), vectors)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.ones((59, 6)), "in its order, got 59 rows"),
        (np.ones(60), r"float embeddings \[60, d\], got float64 \[60\]"),
        (np.ones((60, 6), int), r"got int64 \[60, 6\]"),
        (np.ones((60, 0)), r"got float64 \[60, 0\]"),
    ],
)
def test_an_array_of_another_shape_is_refused(
    images: ImageFolder, tmp_path: Path, array: np.ndarray, said: str
) -> None:
    np.save(tmp_path / "e.npy", array)
    with pytest.raises(UsageError, match=said):
        given_embeddings(tmp_path / "e.npy", images)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
@pytest.mark.parametrize("suffix", ["npy", "parquet"])
def test_embeddings_without_a_direction_are_named(
    images: ImageFolder, vectors: np.ndarray, tmp_path: Path, value: float, suffix: str
) -> None:
    faulty = vectors.copy()
    faulty[[4, 17]] = value
    path = tmp_path / f"e.{suffix}"
    if suffix == "npy":
        np.save(path, faulty)
    else:
        parquet(path, list(images.names), list(faulty))
    with pytest.raises(UsageError, match="for 2 of 60 images") as caught:
        given_embeddings(path, images)
    assert f": {images.names[4]}, {images.names[17]}." in str(caught.value)


def test_images_without_an_embedding_are_named(
    images: ImageFolder, vectors: np.ndarray, tmp_path: Path
) -> None:
    names = [f"/elsewhere/{name}" for name in images.names[:8]] + list(images.names[8:])
    path = parquet(tmp_path / "e.parquet", names, list(vectors))
    with pytest.raises(UsageError, match="no embedding for 8 of 60 images") as caught:
        given_embeddings(path, images)
    assert ", ".join(images.names[:5]) + ", …" in str(caught.value)
    assert "for example /elsewhere/" in str(caught.value)


def test_tables_that_do_not_do_are_refused(
    images: ImageFolder, vectors: np.ndarray, tmp_path: Path
) -> None:
    names, rows = list(images.names), [list(map(float, row)) for row in vectors]
    ragged = [*rows[:-1], [1.0]]
    for key, column, said in (
        ("file", rows, "columns `name` .*got file, embedding"),
        ("name", [1.0] * 60, "lists of floats, got double"),
        ("name", [[1]] * 60, "lists of floats, got list<"),
        ("name", ragged, r"one length in .*, got lengths \[6, 1\]"),
        ("name", [*rows[:-1], None], r"one length in .*, got lengths \[6, None\]"),
    ):
        path = parquet(tmp_path / "e.parquet", names, column, key)
        with pytest.raises(UsageError, match=said):
            given_embeddings(path, images)
    twice = parquet(tmp_path / "e.parquet", [*names, names[3]], [*rows, rows[0]])
    with pytest.raises(UsageError, match=f"more than one embedding for {names[3]}"):
        given_embeddings(twice, images)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none.npy", "There are no embeddings at"),
        ("text.npy", "is not an .npy file"),
        ("text.parquet", "cannot be read as Parquet"),
        ("text.csv", "ending in .npy or .parquet"),
        ("objects.npy", "is not an .npy file of numbers"),
    ],
)
def test_files_that_are_no_embeddings_are_refused(
    images: ImageFolder, tmp_path: Path, name: str, said: str
) -> None:
    for suffix in ("npy", "parquet", "csv"):
        (tmp_path / f"text.{suffix}").write_text("embeddings")
    np.save(tmp_path / "objects.npy", np.array([{}, {}], dtype=object))
    with pytest.raises(UsageError, match=said):
        given_embeddings(tmp_path / name, images)

"""Thumbnails of reference images: what is kept, what is found, what is refused."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from isogon.bundle import THUMBNAILS, Bundle, Thumbnails
from isogon.errors import BundleError


def pictures(count: int, width: int = 8) -> Thumbnails:
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(count, width)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    pixels = generator.integers(0, 256, (count, 40, 200, 3), dtype=np.uint8)
    return Thumbnails.of(pixels, vectors, [f"class {n}" for n in range(count)])


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    made = pictures(5)
    path = tmp_path / THUMBNAILS
    path.write_bytes(made.to_bytes())
    found = Thumbnails.load(path, 8)
    assert found.images == made.images
    assert found.labels == made.labels
    assert np.array_equal(found.embeddings, made.embeddings)


def test_pictures_are_jpeg_of_at_most_96_pixels_a_side() -> None:
    for image in pictures(2).images:
        opened = Image.open(io.BytesIO(image))
        assert opened.format == "JPEG"
        assert opened.size == (96, 19)


def test_the_nearest_come_in_the_order_of_a_full_sort() -> None:
    made = pictures(50)
    queries = pictures(7).embeddings[::-1]
    places, cosines = made.nearest(queries, 6)
    every = queries @ made.embeddings.T
    assert np.array_equal(places, np.argsort(-every, axis=1)[:, :6])
    assert np.array_equal(cosines, -np.sort(-every, axis=1)[:, :6])
    assert made.nearest(queries, 1000)[0].shape == (7, 50)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ends": np.array([3, 2, 5])}, "does not divide"),
        ({"ends": np.empty(0, dtype=np.int64)}, "should be float32"),
        ({"embeddings": np.zeros((3, 4), dtype=np.float32)}, r"float32 \[3, 8\]"),
        ({"embeddings": np.zeros((3, 8), dtype=np.float16)}, "it is float16"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    tmp_path: Path, change: dict[str, np.ndarray], message: str
) -> None:
    arrays = safetensors.numpy.load(pictures(3).to_bytes()) | change
    path = tmp_path / THUMBNAILS
    path.write_bytes(safetensors.numpy.save(arrays))
    with pytest.raises(BundleError, match=message):
        Thumbnails.load(path, 8)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(BundleError, match="Expected thumbnails"):
        Thumbnails.load(path, 8)


def test_as_many_labels_as_images(tmp_path: Path) -> None:
    arrays = safetensors.numpy.load(pictures(3).to_bytes())
    metadata = {"isogon.labels": json.dumps(["one"])}
    path = tmp_path / THUMBNAILS
    path.write_bytes(safetensors.numpy.save(arrays, metadata=metadata))
    with pytest.raises(BundleError, match="1 labels do not name 3 images"):
        Thumbnails.load(path, 8)


def test_a_distilled_bundle_ships_its_bank_small(exported: Path) -> None:
    bundle = Bundle.open(exported)
    assert bundle.manifest.files[THUMBNAILS].stage == "distill"
    found = Thumbnails.in_force(bundle)
    assert found is not None
    bank = bundle.arrays("ood/reference.safetensors")["bank"]
    assert np.allclose(found.embeddings, bank, atol=1e-6)  # fewer than the limit: all
    assert found.labels is not None
    assert set(found.labels) == set("0123456789")


def test_a_bundle_without_thumbnails_opens_and_has_none(bundle: Bundle) -> None:
    older = Path(shutil.copytree(bundle.path, bundle.path.with_name("older.isogon")))
    with Bundle.open(older).stage("distill") as stage:
        stage.withdraw(THUMBNAILS)
    assert Thumbnails.in_force(Bundle.open(older)) is None

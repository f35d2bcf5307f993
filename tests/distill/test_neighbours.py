import numpy as np
import pytest

from distill.images.neighbours import nearest_neighbours, neighbour_batches
from isogon.errors import UsageError


def vectors(n: int, width: int = 8) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, width)).astype(np.float32)


@pytest.mark.parametrize("block", [7, 4096])
def test_neighbours_equal_a_naive_search(block: int) -> None:
    features = vectors(50) * np.linspace(0.1, 9, 50, dtype=np.float32)[:, None]
    directions = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosines = directions @ directions.T
    np.fill_diagonal(cosines, -np.inf)
    found = nearest_neighbours(features, 5, block)
    assert found.dtype == np.int32
    assert np.array_equal(found, np.argsort(-cosines, axis=1)[:, :5])


def test_an_image_is_no_neighbour_of_itself_even_among_many_duplicates() -> None:
    features = np.concatenate([np.ones((20, 8)), vectors(5)]).astype(np.float32)
    before = features.copy()
    found = nearest_neighbours(features, 4)
    assert found.shape == (25, 4)
    assert (found != np.arange(25)[:, None]).all()
    assert (found[:20] < 20).all()
    assert all(len(set(row)) == 4 for row in found)
    assert np.array_equal(features, before)


def test_there_are_at_most_all_other_images() -> None:
    found = nearest_neighbours(vectors(6), 384)
    assert [sorted({*row, i}) for i, row in enumerate(found)] == [list(range(6))] * 6
    with pytest.raises(UsageError, match="at least 2 images, got 1"):
        nearest_neighbours(vectors(1), 5)


def test_a_batch_holds_anchors_each_followed_by_its_own_neighbours() -> None:
    nearest = nearest_neighbours(vectors(200), 40)
    batches = neighbour_batches(nearest, 48, seed=3, epoch=5)
    assert len(batches) == 200 // 48
    for batch in batches:
        assert batch.shape == (48,)
        assert batch.dtype == np.int64
        for group in batch.reshape(3, 16):
            anchor, followers = group[0], group[1:]
            assert set(followers) <= set(nearest[anchor, :31])
            assert len(set(followers)) == 15


def test_batches_depend_on_seed_and_epoch_alone(tmp_path) -> None:
    nearest = nearest_neighbours(vectors(200), 40)
    np.save(tmp_path / "neighbours.npy", nearest)
    mapped = np.load(tmp_path / "neighbours.npy", mmap_mode="r")

    def batches(seed: int, epoch: int) -> np.ndarray:
        return np.array(neighbour_batches(nearest, 32, seed, epoch))

    assert np.array_equal(batches(3, 5), neighbour_batches(mapped, 32, 3, 5))
    assert not np.array_equal(batches(3, 5), batches(3, 6))
    assert not np.array_equal(batches(3, 5), batches(4, 5))


def test_each_image_is_anchor_once_in_sixteen_epochs() -> None:
    nearest = nearest_neighbours(vectors(192), 40)
    for first in (0, 16):
        anchors = [
            anchor
            for epoch in range(first, first + 16)
            for batch in neighbour_batches(nearest, 64, 0, epoch)
            for anchor in batch[::16]
        ]
        assert sorted(anchors) == list(range(192))


@pytest.mark.parametrize(
    ("images", "size", "message"),
    [
        (200, 40, "`batch_size = 40` is not a multiple of that. Set it to 32"),
        (30, 32, "got 30 images"),
        (10, 16, "got 10 images with 9"),
    ],
)
def test_batches_that_cannot_be_are_refused(images: int, size: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        neighbour_batches(nearest_neighbours(vectors(images), 40), size, 0, 0)

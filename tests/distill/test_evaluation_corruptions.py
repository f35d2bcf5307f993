import dataclasses

import numpy as np
import pytest
import torch
from rich.progress import Progress

from distill import Recipe
from distill.evaluation.corruptions import (
    CORRUPTIONS,
    SMALLEST_SIDE,
    CorruptedEmbeddings,
    CorruptionChoice,
    corrupted,
    corruption_figures,
    embed_corrupted,
    why_not,
)
from distill.images.data import Data, prepare_data
from distill.student_from_recipe import student_preprocessing
from isogon.errors import UsageError
from isogon.images import Preprocessing

CPU = torch.device("cpu")
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 32, 3), np.uint8)


def pooled(pixels: torch.Tensor) -> torch.Tensor:
    """A model that sees the mean colour of each quarter."""
    rows = pixels.float().unflatten(1, (2, -1)).mean(2)
    return rows.unflatten(2, (2, -1)).mean(3).flatten(1)


@pytest.fixture(scope="module")
def data(recipe: Recipe, progress: Progress) -> Data:
    return prepare_data(recipe, progress)


@pytest.fixture(scope="module")
def preprocessing(recipe: Recipe) -> Preprocessing:
    return student_preprocessing(recipe)


def test_the_corruptions_are_the_fifteen_common_ones() -> None:
    from imagecorruptions import get_corruption_names

    assert tuple(get_corruption_names("common")) == CORRUPTIONS


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_is_a_function_of_its_arguments(name: str) -> None:
    np.random.seed(7)
    expected = np.random.random()
    np.random.seed(7)
    first = corrupted(PIXELS, name, severity=3, seed=1)
    assert np.random.random() == expected  # the global generator is as it was
    again = corrupted(PIXELS, name, severity=3, seed=1)
    assert first.dtype == np.uint8
    assert first.shape == PIXELS.shape
    assert np.array_equal(first, again)
    assert not np.array_equal(first, PIXELS)


@pytest.mark.parametrize("name", ["gaussian_noise", "glass_blur", "impulse_noise", "frost"])
def test_random_corruptions_follow_the_seed(name: str) -> None:
    one, other = (corrupted(PIXELS, name, severity=3, seed=seed) for seed in (1, 2))
    assert not np.array_equal(one, other)


def test_severity_makes_it_worse() -> None:
    def moved(severity: int) -> float:
        noisy = corrupted(PIXELS, "pixelate", severity=severity, seed=0)
        return float(np.abs(noisy.astype(float) - PIXELS).mean())

    assert moved(1) < moved(3) < moved(5)


def test_embeddings_of_corruptions_do_not_depend_on_the_number_of_processes(
    data: Data, preprocessing: Preprocessing, progress: Progress
) -> None:
    choice = CorruptionChoice(images=5, severities=(1, 4))

    def embeddings(workers: int) -> CorruptedEmbeddings:
        arguments = ([pooled], data, preprocessing, choice, progress)
        (found,) = embed_corrupted(*arguments, device=CPU, workers=workers)
        return found

    alone, together = embeddings(0), embeddings(2)
    assert alone.vectors.shape == (len(CORRUPTIONS), 2, 5, 12)
    assert np.array_equal(alone.vectors, together.vectors)
    assert np.array_equal(alone.test, together.test)
    # The order is corruption, severity, image.
    image = int(data.split.test[alone.test[2]])
    clean = preprocessing.pixels(data.held_out.image(image))
    contrast = corrupted(clean, "contrast", severity=4, seed=0)  # draws nothing
    expected = pooled(torch.from_numpy(contrast)[None])[0].numpy()
    found = alone.vectors[CORRUPTIONS.index("contrast"), 1, 2]
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=1e-6)


def test_accuracy_under_corruptions_is_against_the_clean_bank() -> None:
    bank = np.eye(3, dtype=np.float32).repeat(12, axis=0)
    labels = np.arange(3).repeat(12)
    clean = np.eye(3, dtype=np.float32)
    vectors = np.stack([clean[[0, 1]]] * len(CORRUPTIONS))[:, None]
    vectors[CORRUPTIONS.index("fog"), 0] = clean[[0, 0]]  # the second image goes astray
    found = corruption_figures(
        bank,
        labels,
        clean,
        np.arange(3),
        CorruptedEmbeddings(test=np.array([0, 1]), severities=(3,), vectors=vectors),
    )
    assert (found.images, found.clean_accuracy) == (2, 1.0)
    assert found.accuracy.pop("fog") == 0.5
    assert set(found.accuracy.values()) == {1.0}
    assert set(found.accuracy) | {"fog"} == set(CORRUPTIONS)


def test_small_images_and_images_without_classes_are_refused(
    data: Data, preprocessing: Preprocessing, progress: Progress
) -> None:
    assert why_not(data, preprocessing) is None
    small = preprocessing.model_copy(update={"height": SMALLEST_SIDE - 1})
    assert (
        why_not(data, small) == "the corruptions need 32 pixels or more, the model has 31"
    )
    unlabelled = dataclasses.replace(
        data, familiar=dataclasses.replace(data.familiar, classes=())
    )
    assert "needs classes" in str(why_not(unlabelled, preprocessing))
    with pytest.raises(UsageError, match=r"32 pixels or more.*corruptions=False"):
        embed_corrupted(
            [pooled], data, small, CorruptionChoice(), progress, device=CPU, workers=0
        )

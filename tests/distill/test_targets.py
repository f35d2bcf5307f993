import math
import os
import shutil
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from rich.progress import Progress

from distill import Recipe
from distill.images.loading import TrainingViews, ViewBatch, plain_crops, shuffled_plan
from distill.images.views import Views
from distill.recipe import DataSection
from distill.targets import NetworkTeacher, Targets, teacher_from_recipe
from distill.targets.store import FEATURES, RECORD
from distill.targets.store_key import VIEW_SETTINGS
from isogon.images import ImageFolder

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]

# A teacher of the user's own, whose passes can be counted and slowed down.
MODULE = """
import os, time
import torch
from torch import nn

class Patches(nn.Module):
    grid = (4, 4)
    passes = 0
    factor = 1.0

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.cells = nn.Conv2d(3, 24, 8, 8)

    def forward(self, images):
        type(self).passes += 1
        time.sleep(float(os.environ.get("SECONDS_PER_PASS", "0")))
        cells = self.cells(images).flatten(2).mT
        return self.factor * torch.cat([cells.mean(1, keepdim=True), cells], dim=1)
"""


@pytest.fixture
def imported(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """The recipe with the teacher above, in a folder of its own."""
    name = f"patches_{abs(hash(tmp_path))}"  # a module is imported once per name
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return with_teacher(recipe, name=f"{name}:Patches", checkpoint=None, features="tokens")


def with_teacher(recipe: Recipe, **changes: Any) -> Recipe:
    document = recipe.model_dump(mode="json", exclude_unset=True)
    document["teacher"] = {**document["teacher"], **changes}
    return Recipe.model_validate(document)


def with_data(recipe: Recipe, **changes: Any) -> Recipe:
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=changes)})


def images_of(recipe: Recipe) -> ImageFolder:
    return ImageFolder.list(Path(recipe.data.images))


def teacher_of(recipe: Recipe) -> NetworkTeacher:
    teacher = teacher_from_recipe(recipe, images_of(recipe))
    assert isinstance(teacher, NetworkTeacher)
    return teacher


def student_batches(
    recipe: Recipe, targets: Targets, indices: np.ndarray, *, epochs: int, workers: int
) -> list[ViewBatch]:
    views = TrainingViews(
        Views(images_of(recipe), recipe.data, recipe.train.seed),
        shuffled_plan(indices, batch_size=8, parts=1, repeats=1, seed=3),
        labels=None,
        workers=workers,
        replayed=targets.replayed,
    )
    return [batch for epoch in range(epochs) for (batch,) in views.epoch(epoch)]


def stores(cache: Path) -> list[Path]:
    return sorted(path.parent for path in cache.glob(f"*/{RECORD}"))


@pytest.mark.parametrize("features", ["embedding", "tokens"])
def test_a_stored_feature_belongs_to_exactly_the_pixels_the_student_sees(
    recipe: Recipe, tmp_path: Path, progress: Progress, features: str
) -> None:
    recipe = with_data(recipe, augment="rand-m9-mstd0.5-inc1", erase=0.25)
    recipe = with_teacher(recipe, features=features, views=3, cache=str(tmp_path))
    teacher, indices = teacher_of(recipe), np.arange(192)[::-8]
    targets = teacher.targets(indices, CPU, progress)
    assert targets.replayed == 3
    seen: dict[tuple[int, int], torch.Tensor] = {}
    for batch in student_batches(recipe, targets, indices, epochs=4, workers=2):
        stored = targets.features(batch)
        with torch.no_grad():
            fresh = teacher.network(batch.pixels)
        tokens = fresh.tokens[:, : stored.tokens.shape[1]]
        assert stored.tokens.dtype == torch.float32
        assert stored.grid == (fresh.grid if features == "tokens" else (0, 0))
        # Half a step of float16, and convolutions that sum in another order when other
        # images are in the batch.
        assert torch.allclose(stored.tokens, tokens, rtol=1e-3, atol=1e-4)
        for row, view in enumerate(
            zip(batch.indices.tolist(), batch.numbers.tolist(), strict=True)
        ):
            assert torch.equal(seen.setdefault(view, batch.pixels[row]), batch.pixels[row])
    assert len(seen) == 3 * len(indices)
    # In the store's own batches the same pixels give the same bits.
    views = [(int(index), number) for index in indices for number in range(3)]
    (folder,) = stores(tmp_path)
    values = np.load(folder / FEATURES).reshape(len(views), -1, teacher.card.width)
    for first in range(0, len(views), 64):
        pixels = torch.stack([seen[view] for view in views[first : first + 64]])
        with torch.no_grad():
            tokens = teacher.network(pixels).tokens.half()[:, : values.shape[1]]
        assert np.array_equal(tokens.numpy(), values[first : first + 64])


def test_views_of_an_image_differ_and_so_do_their_features(
    imported: Recipe, progress: Progress
) -> None:
    targets = teacher_of(imported).targets(np.arange(8), CPU, progress)
    batches = [
        ViewBatch(
            pixels=torch.zeros(8, 32, 32, 3, dtype=torch.uint8),
            indices=torch.arange(8),
            numbers=torch.full((8,), number),
            labels=None,
        )
        for number in (0, 1)
    ]
    first, second = (targets.features(batch).tokens for batch in batches)
    assert not torch.allclose(first, second, rtol=0.01)


@pytest.mark.parametrize(("index", "number"), [(9, 0), (3, 0), (2, 8), (2, -1)])
def test_a_view_that_was_not_computed_is_an_error(
    imported: Recipe, progress: Progress, index: int, number: int
) -> None:
    targets = teacher_of(imported).targets(np.array([2, 4, 6]), CPU, progress)
    batch = ViewBatch(
        pixels=torch.zeros(1, 32, 32, 3, dtype=torch.uint8),
        indices=torch.tensor([index]),
        numbers=torch.tensor([number]),
        labels=None,
    )
    with pytest.raises(IndexError):
        targets.features(batch)


def test_a_second_run_only_asks_the_teacher_for_its_shape(
    imported: Recipe, progress: Progress
) -> None:
    first = teacher_of(imported)
    first.targets(np.arange(70), CPU, progress)
    first.pooled(np.arange(70), CPU, progress)
    second = teacher_of(imported)
    counted: Any = type(second.network.network)
    counted.passes = 0
    second.targets(np.arange(70), CPU, progress)
    second.pooled(np.arange(70), CPU, progress)
    assert counted.passes == 2


def test_pooled_features_are_those_of_the_plain_crops_in_order(
    recipe: Recipe, tmp_path: Path, progress: Progress
) -> None:
    recipe = with_teacher(recipe, cache=str(tmp_path))
    teacher, indices = teacher_of(recipe), np.arange(90)[::-1]
    pooled = teacher.pooled(indices, CPU, progress)
    crops = plain_crops(images_of(recipe), indices, teacher.preprocessing)
    with torch.no_grad():
        expected = torch.cat([teacher.network(pixels).pooled for pixels in crops])
    assert np.array_equal(pooled, expected.half().numpy())
    sample = torch.cat([features.pooled for features in teacher.sample(indices, CPU)])
    assert torch.equal(sample, expected)
    assert torch.equal(teacher.embed(next(iter(crops))), expected[:64])


def test_features_of_crops_that_are_known_are_taken_from_there(
    imported: Recipe, tmp_path: Path, progress: Progress
) -> None:
    """Four of eight views are plain, and two of these are the unchanged crops."""
    recipe = with_data(with_teacher(imported, features="embedding"), plain=0.5)
    student = recipe.student.model_copy(update={"start": "closed-form"})
    recipe = recipe.model_copy(update={"student": student})
    bank, indices = np.arange(40), np.arange(36)
    computed = teacher_of(with_teacher(recipe, cache=str(tmp_path / "computed")))
    expected = computed.targets(indices, CPU, progress)
    taken = teacher_of(with_teacher(recipe, cache=str(tmp_path / "taken")))
    asked = taken.uncomputed(indices, CPU, crops=bank)
    taken.pooled(bank, CPU, progress)
    counted: Any = type(taken.network.network)
    counted.passes = 0
    found = taken.targets(indices, CPU, progress)
    assert counted.passes == 1 + math.ceil(36 * 6 / 64)  # one to learn the shape
    assert asked.views == 36 * 6
    for batch in student_batches(recipe, found, indices, epochs=8, workers=0):
        assert torch.allclose(
            found.features(batch).tokens, expected.features(batch).tokens, atol=2e-3
        )


def test_a_sample_has_cells_unless_only_embeddings_are_wanted(imported: Recipe) -> None:
    (features,) = teacher_of(imported).sample(np.arange(5), CPU)
    assert (features.tokens.shape, features.grid) == ((5, 17, 24), (4, 4))
    embeddings = with_teacher(imported, features="embedding")
    (features,) = teacher_of(embeddings).sample(np.arange(5), CPU)
    assert (features.tokens.shape, features.grid) == ((5, 1, 24), (0, 0))


def test_features_are_computed_in_the_precision_of_training(
    imported: Recipe, progress: Progress
) -> None:
    train = imported.train.model_copy(update={"precision": "bf16-mixed"})
    mixed = imported.model_copy(update={"train": train})
    values = []
    for recipe in (imported, mixed):
        teacher_of(recipe).targets(np.arange(64), CPU, progress)
        (new,) = [f for f in stores(Path("teacher-features")) if f not in values]
        values.append(new)
    exact, rough = (np.load(folder / FEATURES).astype(np.float32) for folder in values)
    assert not np.array_equal(exact, rough)
    assert np.allclose(exact, rough, atol=0.02 * np.abs(exact).max())


def test_every_setting_that_views_depend_on_is_part_of_the_key(recipe: Recipe) -> None:
    asked: set[str] = set()

    class Watched(DataSection):
        def __getattribute__(self, name: str) -> Any:
            asked.add(name)
            return super().__getattribute__(name)

    images, section = images_of(recipe), Watched.model_validate(recipe.data.model_dump())
    asked.clear()
    Views(images, section, seed=0)
    assert asked & set(DataSection.model_fields) == VIEW_SETTINGS


def changed(recipe: Recipe, what: str) -> Recipe:
    match what:
        case "seed" | "precision":
            value: Any = 1 if what == "seed" else "bf16-mixed"
            train = recipe.train.model_copy(update={what: value})
            return recipe.model_copy(update={"train": train})
        case "views":
            return with_teacher(recipe, views=5)
        case "weights":  # the normalisation is among the buffers
            return with_teacher(recipe, mean=[0.5, 0.5, 0.5])
        case "erase" | "blur" | "flip":
            return with_data(recipe, **{what: 0.25})
        case "scale":
            return with_data(recipe, scale=(0.9, 1.0))
        case "content":
            path = images_of(recipe).root / images_of(recipe).names[1]
            os.utime(path, (1, 1))
        case "code":
            (path,) = Path().glob("*.py")
            path.write_text(path.read_text() + "\n# another version\n")
    return recipe


@pytest.mark.parametrize(
    "what",
    [
        *("seed", "precision", "views", "weights", "erase", "blur", "flip", "scale"),
        *("content", "code", "names"),
    ],
)
def test_whatever_changes_is_computed_again_and_named(
    imported: Recipe, digits: Path, tmp_path: Path, what: str
) -> None:
    copy = Path(shutil.copytree(digits, tmp_path / "copy"))
    recipe, indices = with_data(imported, images=str(copy)), np.arange(8)
    said = StringIO()
    bars = Progress(console=Console(file=said, width=500), disable=True)
    teacher_of(recipe).targets(indices, CPU, bars)
    assert "cannot be used" not in said.getvalue()
    assert "8 images x 8 views x 17 tokens x 24 values, 52.2 KB" in said.getvalue()
    if what == "names":
        indices = np.arange(1, 9)
    teacher_of(changed(recipe, what)).targets(indices, CPU, bars)
    assert len(stores(Path("teacher-features"))) == 2
    assert f"differ in {what}. Both are kept." in said.getvalue()


def test_changed_weights_are_another_store(imported: Recipe, progress: Progress) -> None:
    for nudge in (0.0, 1e-7):
        teacher = teacher_of(imported)
        weights = next(iter(teacher.network.parameters()))
        weights.view(-1)[0] += nudge
        teacher.pooled(np.arange(4), CPU, progress)
    assert len(stores(Path("teacher-features"))) == 2


@pytest.mark.slow
def test_a_killed_computation_goes_on_and_ends_with_the_same_bytes(
    imported: Recipe, tmp_path: Path, progress: Progress
) -> None:
    whole = with_teacher(imported, cache=str(tmp_path / "whole"), views=8)
    cut = with_teacher(imported, cache=str(tmp_path / "cut"), views=8)
    indices = np.arange(240)
    (tmp_path / "recipe.json").write_text(cut.model_dump_json(exclude_unset=True))
    script = (
        "import numpy as np, torch\n"
        "from pathlib import Path\n"
        "from rich.progress import Progress\n"
        "from isogon.images import ImageFolder\n"
        "from distill import Recipe\n"
        "from distill.targets import teacher_from_recipe\n"
        "recipe = Recipe.model_validate_json(Path('recipe.json').read_text())\n"
        "images = ImageFolder.list(Path(recipe.data.images))\n"
        "teacher = teacher_from_recipe(recipe, images)\n"
        "teacher.targets(np.arange(240), torch.device('cpu'), Progress(disable=True))\n"
    )
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "SECONDS_PER_PASS": "0.25"
    }  # fmt: skip
    process = subprocess.Popen([sys.executable, "-c", script], env=environment)
    try:
        while not list(tmp_path.glob("cut/*/rows.json")):
            assert process.poll() is None, "it ended before it was killed"
            time.sleep(0.01)
        time.sleep(0.4)  # rows are written by now that are not noted
    finally:
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    (folder,) = stores(tmp_path / "cut")
    done = int((folder / "rows.json").read_text())
    assert 0 < done < 1920
    with (folder / FEATURES).open("ab") as file:
        file.write(b"torn")

    teacher = teacher_of(cut)
    counted: Any = type(teacher.network.network)
    counted.passes = 0
    teacher.targets(indices, CPU, progress)
    assert counted.passes == (1920 - done) // 64 + 1  # one to learn the shape
    teacher_of(whole).targets(indices, CPU, progress)
    (expected,) = stores(tmp_path / "whole")
    assert folder.name == expected.name
    for name in (FEATURES, RECORD, "rows.json"):
        assert (folder / name).read_bytes() == (expected / name).read_bytes()

import io
import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console
from rich.progress import Progress

from distill import Recipe, recipe_from_document
from distill.distillation import distill
from distill.embedding import teacher_embeddings
from distill.images.data import prepare_data
from distill.targets import NetworkTeacher, teacher_from_recipe
from distill.training.checkpoint import Checkpoint
from isogon.errors import UsageError
from isogon.images import ImageFolder, Preprocessing

MODULE = """
import torch
from torch import nn

number = 3

class Network(nn.Module):
    def __init__(self, give):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.give = give

    def forward(self, images):
        return self.give(images)

def embeddings():
    return Network(lambda images: images.mean((2, 3)))

def tokens():
    return Network(lambda images: torch.cat(
        [images.mean((2, 3))[..., None], images[:, :, ::16, ::16].flatten(2)], 2).mT)

def oblong():
    network = Network(lambda images: images[:, :, 0, :7].mT)
    network.grid = (2, 3)
    return network

class Half(nn.Module):
    def __init__(self, dtype):
        super().__init__()
        self.layer = nn.Linear(3, 5).to(dtype)

    def forward(self, images):
        return self.layer(images.mean((2, 3)))

class CastsItself(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 5).bfloat16()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images):
        assert images.dtype == torch.float32
        return self.layer((images * self.scale).mean((2, 3)).bfloat16())

def bfloat16(): return Half(torch.bfloat16)
def float16(): return Half(torch.float16)
def casts_itself(): return CastsItself()
def not_finite():
    return Network(lambda images: images.mean((2, 3)) / (images.std((1, 2, 3)) > 0.5)[:, None])
def blind():
    return Network(lambda images: images.mean((2, 3)) * (images.std((1, 2, 3)) > 0.5)[:, None])
def unaligned(): return Network(lambda images: images[:, :, 0, :7].mT)
def maps(): return Network(lambda images: images)
def pairs(): return Network(lambda images: (images, images))
def integers(): return Network(lambda images: images.mean((2, 3)).int())
def one(): return Network(lambda images: images.mean((0, 2, 3))[None])
def fails(): return Network(lambda images: images @ torch.ones(5, 5))
def breaks(): raise OSError("no weights here")
def dictionary(): return {}
"""


@pytest.fixture(autouse=True)
def module(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> str:
    folder = tmp_path_factory.mktemp("own")
    name = folder.name.replace("-", "_") + "_teachers"
    (folder / f"{name}.py").write_text(MODULE)
    (folder / f"{name}_broken.py").write_text("import a_package_nobody_has")
    (folder / f"{name}_faulty.py").write_text("1 / 0")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(folder))])
    return name


def imported(recipe: Recipe, name: str, **more: object) -> NetworkTeacher:
    document = recipe.model_dump(mode="json", exclude_unset=True)
    document["teacher"] = {"name": name, **more}
    recipe = recipe_from_document(document, where="tests")
    teacher = teacher_from_recipe(recipe, ImageFolder.list(Path(recipe.data.images)))
    assert isinstance(teacher, NetworkTeacher)
    return teacher


def test_a_teacher_in_the_current_folder_is_found_and_normalised(
    recipe: Recipe, module: str
) -> None:
    pixels = torch.full((3, 32, 32, 3), 255, dtype=torch.uint8)
    teacher = imported(recipe, f"{module}:embeddings", license="MIT")
    features = teacher.network(pixels)
    expected = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor(
        [0.229, 0.224, 0.225]
    )
    assert torch.allclose(features.pooled, expected.expand(3, 3))
    assert (features.tokens.shape, features.grid) == ((3, 1, 3), (0, 0))
    assert (teacher.card.width, teacher.card.licence, teacher.card.parameters) == (
        3,
        "MIT",
        1,
    )
    assert not any(p.requires_grad for p in teacher.network.parameters())
    plain = imported(recipe, f"{module}:embeddings", mean=[0.0] * 3, std=[0.5] * 3)
    assert torch.equal(plain.network(pixels).pooled, torch.full((3, 3), 2.0))


def test_a_run_is_not_continued_after_its_teachers_code_has_changed(
    recipe: Recipe, module: str, tmp_path: Path
) -> None:
    document = recipe.model_dump(mode="json", exclude_unset=True)
    document["teacher"] = {"name": f"{module}:embeddings"}
    recipe = recipe_from_document(document, where="tests")
    Checkpoint(tmp_path, recipe, ()).save({})
    assert Checkpoint(tmp_path, recipe, ()).load() == {}
    Path(f"{module}.py").write_text(f"{MODULE}\n# another\n")
    with pytest.raises(UsageError, match=r"differs in code of teacher.name\. Remove"):
        Checkpoint(tmp_path, recipe, ()).load()


@pytest.mark.parametrize("factory", ["bfloat16", "float16", "casts_itself"])
def test_a_teacher_in_half_precision_gives_float32(
    recipe: Recipe, module: str, factory: str
) -> None:
    network = imported(recipe, f"{module}:{factory}").network
    pixels = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    features = network(pixels)
    assert (features.tokens.dtype, network.width) == (torch.float32, 5)
    assert features.tokens.isfinite().all()


@pytest.mark.slow
def test_a_student_learns_from_a_teacher_in_bfloat16(
    recipe: Recipe, module: str, tmp_path: Path, progress: Progress
) -> None:
    for features in ("online", "embedding"):
        section = {"name": f"{module}:bfloat16", "features": features}
        document = recipe.model_dump(mode="json", exclude_unset=True)
        document["teacher"] = section | {"cache": str(tmp_path / "cache")}
        document["train"] |= {"epochs": 1, "warmup_epochs": 0}
        small = recipe_from_document(document, where="tests")
        assert distill(small, tmp_path / f"{features}.isogon", progress)


@pytest.mark.parametrize("features", ["online", "embedding"])
def test_a_teacher_that_gives_no_numbers_is_named_with_the_image(
    recipe: Recipe,
    module: str,
    flat_digits: Path,
    tmp_path: Path,
    progress: Progress,
    features: str,
) -> None:
    """It divides by zero for one image; the error does not blame the learning rate."""
    images = tmp_path / "images"
    shutil.copytree(flat_digits, images)
    for name in ("grey0.png", "grey1.png", "grey2.png", "grey3.png"):
        Image.new("L", (8, 8), 120).save(images / name)
    document = recipe.model_dump(mode="json", exclude_unset=True)
    document["teacher"] = {
        "name": f"{module}:not_finite",
        "features": features,
        "cache": str(tmp_path / "cache"),
    }
    document["data"]["images"] = str(images)
    document["objective"] = [{"name": "rkd"}]
    document["ood"] = {"name": "knn", "alpha": 0.3}
    small = recipe_from_document(document, where="tests")
    with pytest.raises(
        UsageError, match=r"teacher .*:not_finite gives .* grey\d.png"
    ) as one:
        distill(small, tmp_path / "s.isogon", progress)
    assert "learning_rate" not in str(one.value)


@pytest.mark.parametrize(("factory", "grid"), [("tokens", (2, 2)), ("oblong", (2, 3))])
def test_tokens_lie_on_a_square_or_on_the_grid_of_the_module(
    recipe: Recipe, module: str, factory: str, grid: tuple[int, int]
) -> None:
    network = imported(recipe, f"{module}:{factory}").network
    features = network(torch.zeros(2, 32, 32, 3, dtype=torch.uint8))
    assert features.grid == grid
    assert features.cells.shape == (2, grid[0] * grid[1], 3)


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("unaligned", r"gave \[2, 7, 3\], whose 6 cells do not fill a grid of 2 x 2"),
        ("maps", r"gave \[2, 3, 32, 32\] for 2 images"),
        ("pairs", "gave a tuple"),
        ("integers", "gave values of torch.int32"),
        ("one", r"gave \[1, 3\] for 2 images"),
        ("fails", "failed on two images of 32 x 32 pixels: RuntimeError"),
        ("breaks", r"breaks\(\) failed: OSError: no weights here"),
        ("dictionary", "return a torch.nn.Module, got a dict"),
        ("number", r"a function 'number' in .*teachers.py\), found a int"),
        ("missing", "found nothing of this name"),
    ],
)
def test_a_teacher_that_does_not_do_is_refused(
    recipe: Recipe, module: str, factory: str, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        imported(recipe, f"{module}:{factory}")


@pytest.mark.parametrize(
    ("suffix", "said"),
    [
        ("_nowhere", "There is no module '.*_nowhere'.*in the current folder"),
        ("_broken", "failed: No module named 'a_package_nobody_has'. Install what"),
        ("_faulty", "failed: ZeroDivisionError: division by zero"),
    ],
)
def test_a_module_that_cannot_be_imported_is_reported(
    recipe: Recipe, module: str, suffix: str, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        imported(recipe, f"{module}{suffix}:factory")


@pytest.mark.parametrize("name", [":factory", ".relative:factory", "..:x"])
def test_a_name_that_is_not_an_import_path_is_explained(recipe: Recipe, name: str) -> None:
    with pytest.raises(UsageError, match=r"package.module:factory"):
        imported(recipe, name)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({}, "expected a `name`, or the `path`"),
        ({"path": "e.npy", "checkpoint": "w.pth"}, "leave out `checkpoint` with `path`"),
        ({"path": "e.npy", "features": "tokens"}, "leave out `features` with `path`"),
        ({"name": "m:f", "checkpoint": "w.pth"}, "`checkpoint` with an imported teacher"),
        ({"name": "vit", "mean": [0.5, 0.5, 0.5]}, "leave out `mean` with a timm model"),
        ({"name": "vit", "views": 2}, "leave out `views` with `features = \"online\"`"),
        ({"name": "vit", "features": "token"}, "'online', 'embedding' or 'tokens'"),
        ({"name": "vit", "feature": "tokens"}, "did you mean `features`"),
    ],
)  # fmt: skip
def test_keys_that_contradict_one_another_are_refused(
    recipe: Recipe, section: dict[str, object], said: str
) -> None:
    document = recipe.model_dump(mode="json", exclude_unset=True)
    with pytest.raises(UsageError, match=said):
        recipe_from_document({**document, "teacher": section}, where="tests")


def test_a_teacher_that_fails_on_unfamiliar_images_is_named_before_training(
    recipe: Recipe, module: str, tmp_path: Path, progress: Progress
) -> None:
    grey = tmp_path / "grey"
    grey.mkdir()
    for number in range(3):
        Image.new("L", (8, 8), 60 * number).save(grey / f"grey{number}.png")
    document = recipe.model_dump(mode="json", exclude_unset=True)
    document["teacher"] = {"name": f"{module}:not_finite"}
    document["unfamiliar"] = [{"name": "grey", "images": str(grey)}]
    document["objective"] = [{"name": "rkd"}]
    small = recipe_from_document(document, where="tests")
    with pytest.raises(
        UsageError,
        match=r"not_finite gives .* the image grey0\.png and 2 more.*Leave these",
    ):
        distill(small, tmp_path / "s.isogon", progress)
    assert not (tmp_path / "s.isogon.work" / "checkpoint.pt").exists()


def test_images_for_which_a_teacher_gives_only_zeros_are_counted(
    recipe: Recipe, module: str, tmp_path: Path
) -> None:
    Image.new("L", (8, 8), 60).save(tmp_path / "grey.png")
    document = recipe.model_dump(mode="json", exclude_unset=True)
    document["teacher"] = {"name": f"{module}:blind"}
    document["unfamiliar"] = [{"name": "grey", "images": str(tmp_path)}]
    small = recipe_from_document(document, where="tests")
    said = io.StringIO()
    with Progress(console=Console(file=said, width=500), disable=True) as progress:
        data = prepare_data(small, progress)
        teacher = teacher_from_recipe(small, data.familiar)
        crop = Preprocessing(
            height=16, width=16, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)
        )
        random = torch.random.get_rng_state()
        found = teacher_embeddings(
            teacher, data, crop, progress, device=torch.device("cpu"), workers=0
        )
    assert found is not None
    assert not found.unfamiliar["grey"].any()
    assert "blind gives only zeros for 1 of the images, such as grey.png" in said.getvalue()
    assert torch.equal(torch.random.get_rng_state(), random)

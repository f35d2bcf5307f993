"""The examples run, do what Isogon does, and need nothing of it."""

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from bundle import Preprocessing, StandaloneModel, decode

EDGE = Path(__file__).parents[1] / "examples" / "edge.py"


@pytest.fixture(scope="module")
def edge() -> ModuleType:
    spec = importlib.util.spec_from_file_location("edge", EDGE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_edge_example_is_short_and_imports_three_packages() -> None:
    text = EDGE.read_text()
    assert len(text.splitlines()) < 40
    imported = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or ".").split(".")[0])
    assert imported - sys.stdlib_module_names == {"numpy", "onnxruntime", "PIL"}


def of_every_kind(folder: Path, source: Path) -> list[Path]:
    """Photographs that differ in what decoding must heed."""
    photograph = Image.open(source).convert("RGB").crop((3, 5, 160, 120))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        photograph.save(folder / f"turned-{orientation}.jpg", exif=exif)
    for mode in ("L", "CMYK"):
        photograph.convert(mode).save(folder / f"{mode}.jpg")
    photograph.convert("P").save(folder / "palette.png")
    see_through = photograph.convert("RGBA")
    see_through.putalpha(photograph.convert("L"))
    see_through.save(folder / "transparent.png")
    see_through.save(folder / "transparent.webp", lossless=True)
    photograph.resize((7, 300)).save(folder / "tall.png")
    photograph.resize((1, 1)).save(folder / "one.png")
    return sorted(folder.iterdir())


@pytest.mark.parametrize(("height", "width", "crop"), [(32, 32, 1.0), (40, 24, 0.875)])
def test_the_edge_example_makes_exactly_isogons_pixels(
    edge: ModuleType,
    photographs: Path,
    tmp_path: Path,
    height: int,
    width: int,
    crop: float,
) -> None:
    preprocessing = Preprocessing(
        height=height, width=width, crop=crop, mean=(0.5,) * 3, std=(0.5,) * 3
    )
    paths = of_every_kind(tmp_path, photographs / "coffee.jpg")
    assert len(paths) == 15
    for path in paths:
        expected = preprocessing.pixels(decode(path.read_bytes()))
        assert np.array_equal(edge.pixels(path, height, width, crop), expected), path.name


def test_the_edge_example_answers_as_isogon_does(
    standalone_file: Path, digits: Path, photographs: Path
) -> None:
    images = [*sorted(digits.rglob("*.png"))[:4], *sorted(photographs.glob("*.jpg"))[:4]]
    arguments = [sys.executable, str(EDGE), str(standalone_file), *map(str, images)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    model = StandaloneModel.open(standalone_file)
    answers = [model.answer(path) for path in images]
    assert {answer.is_ood for answer in answers} == {True, False}
    for line, answer in zip(lines, answers, strict=True):
        verdict = "unfamiliar" if answer.is_ood else "familiar"
        assert line.startswith(f"{answer.name}  p = {answer.p_value:.4f}  {verdict}  [")
        first = [float(number) for number in re.findall(r"\[(.*)\]", line)[0].split(",")]
        assert first == answer.embedding[:4].tolist()

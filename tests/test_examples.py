"""The examples run and do what Isogon does; the edge example does not need Isogon."""

import ast
import importlib.util
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pillow_heif
import pytest
from PIL import Image, TiffImagePlugin

from isogon.images import Preprocessing, decode
from isogon.model import Model
from serving import running_service

EXAMPLES = Path(__file__).parents[1] / "examples"
EDGE = EXAMPLES / "edge.py"
SEARCH = EXAMPLES / "search.py"


def module_at(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


icc = module_at(Path(__file__).parent / "isogon/images/icc.py")
sixteen_bits = module_at(Path(__file__).parent / "isogon/images/sixteen_bits.py")


@pytest.fixture(scope="module")
def edge() -> ModuleType:
    return module_at(EDGE)


def test_the_edge_example_is_short_and_imports_few_packages() -> None:
    text = EDGE.read_text()
    assert len(text.splitlines()) < 210
    imported = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or ".").split(".")[0])
    assert imported - sys.stdlib_module_names == {"numpy", "onnxruntime", "PIL", "pi_heif"}


def of_every_kind(folder: Path, source: Path) -> list[Path]:
    """Photographs that differ in everything that decoding has to consider."""
    photograph = Image.open(source).convert("RGB").crop((3, 5, 160, 120))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        photograph.save(folder / f"turned-{orientation}.jpg", exif=exif)
    photograph.save(folder / "turned.tiff", exif=exif)
    for mode in ("L", "CMYK"):
        photograph.convert(mode).save(folder / f"{mode}.jpg")
    Image.merge("LAB", photograph.split()).save(folder / "lab.tiff")
    photograph.convert("P").save(folder / "palette.png")
    see_through = photograph.convert("RGBA")
    see_through.putalpha(photograph.convert("L"))
    see_through.save(folder / "transparent.png")
    see_through.save(folder / "transparent.webp", lossless=True)
    photograph.resize((7, 300)).save(folder / "tall.png")
    photograph.resize((1, 1)).save(folder / "one.png")
    pillow_heif.register_heif_opener()
    for suffix in ("gif", "bmp", "jp2", "avif", "heic", "ppm"):
        photograph.save(folder / f"of.{suffix}")
    for name, primaries in (("p3", icc.DISPLAY_P3), ("srgb", icc.SRGB)):
        profile = icc.rgb_profile(primaries)
        photograph.save(folder / f"{name}.jpg", icc_profile=profile)
        see_through.save(folder / f"{name}.png", icc_profile=profile)
    photograph.save(folder / "damaged-profile.jpg", icc_profile=profile[:200])
    grey = photograph.convert("L")
    grey.save(folder / "linear.png", icc_profile=icc.grey_profile(1.0))
    deep = np.asarray(grey).astype(np.uint16) * 257
    Image.fromarray(deep).save(folder / "16-bit.png")
    Image.fromarray(deep).save(folder / "16-bit-clear.png", transparency=int(deep[0, 0]))
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[281] = 4095
    Image.fromarray(deep >> 4).save(folder / "12-bit.tiff", tiffinfo=info)
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[262] = 0
    Image.fromarray(deep).save(folder / "white-is-zero.tiff", tiffinfo=info)
    palette = photograph.quantize(16)
    palette.save(folder / "palette.tiff", tiffinfo={320: tuple(range(256)) * 3})
    gif = bytearray((folder / "of.gif").read_bytes())
    gif[6:8] = struct.pack("<H", photograph.width + 20)  # a wider screen
    (folder / "offset.gif").write_bytes(gif)
    small = Image.new("RGBA", (70, 50), (0, 0, 0, 0))
    small.paste(photograph.resize((20, 20)), (10, 10))
    options = {"save_all": True, "append_images": [photograph.resize((70, 50))]}
    small.save(folder / "offset.webp", lossless=True, **options)
    (folder / "no-end.jpg").write_bytes((folder / "L.jpg").read_bytes()[:-2])
    Image.fromarray(deep >> 4).save(folder / "12-bit.png")
    body = b"sBIT\x0c"
    chunk = struct.pack(">I", 1) + body + struct.pack(">I", zlib.crc32(body))
    for path in (folder / "12-bit.png", folder / "16-bit-clear.png"):
        data = path.read_bytes()
        path.write_bytes(data[:33] + chunk + data[33:])
    colours = np.asarray(photograph).astype(np.uint16) * 16 + 3
    clear = struct.pack(">HHH", *(int(value) for value in colours[0, 0]))
    bits = {"sBIT": b"\x0c\x0c\x0c", "tRNS": clear}
    (folder / "12-bit-colours.png").write_bytes(sixteen_bits.png(colours, **bits))
    for planes in (False, True):
        path = folder / f"12-bit-colours-{planes}.tiff"
        path.write_bytes(sixteen_bits.tiff(colours, most=4095, order=">", planes=planes))
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
    assert len(paths) == 41
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
    model = Model.open(standalone_file)
    answers = [model.answer(path) for path in images]
    assert {answer.is_ood for answer in answers} == {True, False}
    for line, answer in zip(lines, answers, strict=True):
        verdict = "unfamiliar" if answer.is_ood else "familiar"
        assert line.startswith(f"{answer.name}  p = {answer.p_value:.4f}  {verdict}  [")
        first = [float(number) for number in re.findall(r"\[(.*)\]", line)[0].split(",")]
        assert first == answer.embedding[:4].tolist()


@pytest.fixture(scope="module")
def url(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_service(exported, tmp_path_factory.mktemp("service") / "log") as address:
        yield address


def lines_of(*arguments: object, cwd: Path | None = None) -> list[str]:
    done = run(*arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, arguments)),
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(EXAMPLES.parent)},
        check=False,
    )


def test_the_client_example_finds_the_image_itself_and_keeps_an_index(
    url: str, photographs: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(photographs, tmp_path / "photographs"))
    arguments = (sys.executable, EXAMPLES / "client.py", url, folder, folder / "grass.jpg")
    first = lines_of(*arguments)
    assert re.fullmatch(r"grass.jpg: unfamiliar, p = 0\.\d+", first[0])
    assert first[1] == "  1.000  grass.jpg"
    assert len(first) == 6
    index = dict(np.load(folder / "embeddings.npz"))
    assert index["embeddings"].shape == (12, 32)
    assert lines_of(*arguments) == first  # from the index
    np.savez(folder / "embeddings.npz", **index | {"fingerprint": np.array("0" * 64)})
    refused = run(*arguments)
    assert refused.returncode == 1
    assert "cannot be compared" in refused.stderr


def test_the_openai_example_answers_as_the_edge_example(
    url: str, photographs: Path, standalone_file: Path
) -> None:
    images = sorted(photographs.glob("*.jpg"))[:3]
    ours = lines_of(sys.executable, EXAMPLES / "openai_client.py", url, *images)
    edge = lines_of(sys.executable, EDGE, standalone_file, *images)
    assert [line.split("[")[0] for line in ours] == [line.split("[")[0] for line in edge]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed here")
def test_the_curl_example_asks_in_every_way(
    url: str, photographs: Path, tmp_path: Path
) -> None:
    image = photographs / "coffee.jpg"
    lines = lines_of("sh", EXAMPLES / "curl.sh", url, image, cwd=tmp_path)
    answers = [json.loads(line) for line in lines if line.startswith("{")]
    model, several, one, score, openai = answers
    assert model["name"] == score["model"]["name"] == openai["model"] == "digits"
    assert len(several["results"]) == 2
    embedding = np.array(one["results"][0]["embedding"], np.float32)
    assert np.allclose(openai["data"][0]["embedding"], embedding, atol=1e-6)
    assert np.allclose(np.load(tmp_path / "embeddings.npy"), embedding, atol=1e-6)


def test_the_search_example_finds_an_image_and_those_most_like_it(embedded: Path) -> None:
    def search(name: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(SEARCH), str(embedded), name]
        return subprocess.run(command, capture_output=True, text=True)

    lines = search("3/003.png").stdout.splitlines()
    assert len(lines) == 5
    assert re.fullmatch(r"1\.0000  3/003\.png(  unfamiliar)?", lines[0])
    cosines = [float(line.split()[0]) for line in lines]
    assert cosines == sorted(cosines, reverse=True)
    nothing = search("3/nowhere.png")
    assert nothing.returncode == 1
    assert "has no image of the name '3/nowhere.png'" in nothing.stderr

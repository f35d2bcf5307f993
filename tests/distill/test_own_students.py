"""Students that are networks of the user's own, from the import path to the artifact."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from rich.progress import Progress

from distill import Recipe, recipe_from_document
from distill.distillation import distill
from distill.evaluation.reevaluation import reevaluate
from distill.requirements import require_models
from distill.student_from_recipe import card_of, student_from_recipe
from export import ExportPlan, export_bundle
from isogon.bundle import HELD_OUT, Bundle, StudentCard
from isogon.errors import UsageError
from isogon.networks import Student, student_from_bundle
from isogon.runtimes import OnnxRunner

BundleOf = Callable[[Student, StudentCard, Path], Bundle]


def changed(recipe: Recipe, student: dict[str, object], **data: object) -> Recipe:
    document = recipe.model_dump(mode="json", exclude_unset=True)
    document["student"] = student
    document["data"] |= data
    document["train"] |= {"epochs": 1, "warmup_epochs": 0}
    return recipe_from_document(document, where="tests")


def made(recipe: Recipe, name: str, **more: object) -> Student:
    return student_from_recipe(changed(recipe, {"name": name, **more}))[0].eval()


PIXELS = torch.randint(
    0, 256, (3, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)


@pytest.mark.parametrize(
    ("factory", "width", "layer"),
    [
        ("convolutions", 24, True),
        pytest.param("transformer", 24, False, marks=pytest.mark.slow),
        pytest.param("tied", 12, False, marks=pytest.mark.slow),
    ],
)
def test_an_own_student_is_trained_exported_and_evaluated_like_any_other(
    recipe: Recipe,
    own_networks: str,
    tmp_path: Path,
    progress: Progress,
    factory: str,
    width: int,
    layer: bool,
) -> None:
    small = changed(recipe, {"name": f"{own_networks}:{factory}", "mean": [0.1, 0.2, 0.3]})
    bundle = distill(small, tmp_path / "s.isogon", progress)
    card = bundle.manifest.student
    assert (card.architecture, card.width) == (f"{own_networks}:{factory}", width)
    assert (card.embedding_layer, list(card.code)) == (layer, [own_networks])
    assert bundle.manifest.preprocessing.mean == (0.1, 0.2, 0.3)
    exported = export_bundle(bundle, progress, ExportPlan(lower=("fp16", "int8")))
    assert "onnx/model.onnx" in bundle
    assert not exported.failed
    student = student_from_bundle(bundle)
    pixels = bundle.arrays(HELD_OUT)["familiar"][:5]
    onnx = OnnxRunner(bundle.file("onnx/model.onnx")).run(pixels).embeddings
    with torch.inference_mode():
        torch.testing.assert_close(
            torch.from_numpy(onnx),
            student.embed(torch.from_numpy(pixels)),
            atol=1e-5,
            rtol=0,
        )
    assert reevaluate(Bundle.open(bundle.path), progress, with_teacher=False)


def bundled(recipe: Recipe, name: str, bundle_of: BundleOf, path: Path) -> Bundle:
    small = changed(recipe, {"name": name})
    student, licence = student_from_recipe(small)
    return bundle_of(student, card_of(student, small, licence), path)


def test_a_student_is_made_again_only_by_the_code_that_made_it(
    recipe: Recipe,
    own_networks: str,
    bundle_of: BundleOf,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bundle = bundled(recipe, f"{own_networks}:wide", bundle_of, tmp_path / "s.isogon")
    assert student_from_bundle(bundle)
    monkeypatch.setenv("WIDTH", "48")
    with pytest.raises(
        UsageError, match=r"returns another network than .* settings outside"
    ):
        student_from_bundle(bundle)
    monkeypatch.delenv("WIDTH")
    source = Path(f"{own_networks}.py")
    code = source.read_text()
    source.write_text(f"{code}\n# another\n")
    with pytest.raises(
        UsageError, match=f"code has changed since .*: {own_networks}. Restore"
    ):
        student_from_bundle(bundle)
    source.unlink()
    with pytest.raises(
        UsageError, match=f"module '{own_networks}' is not found here.* PYTHONPATH"
    ):
        student_from_bundle(bundle)
    source.write_text(code)
    assert student_from_bundle(bundle)


def test_code_beside_the_module_counts_too(
    recipe: Recipe, own_networks: str, bundle_of: BundleOf, tmp_path: Path
) -> None:
    door = f"{own_networks}_door"
    Path(f"{door}.py").write_text(f"from {own_networks} import transformer\n")
    bundle = bundled(recipe, f"{door}:transformer", bundle_of, tmp_path / "s.isogon")
    assert set(bundle.manifest.student.code) == {own_networks, door}
    source = Path(f"{own_networks}.py")
    source.write_text(f"{source.read_text()}\n# another\n")
    with pytest.raises(UsageError, match=f"since it was trained: {own_networks}. Restore"):
        student_from_bundle(bundle)


def test_weights_of_an_own_student_are_loaded_strictly(
    recipe: Recipe, own_networks: str, tmp_path: Path
) -> None:
    name = f"{own_networks}:transformer"
    state = made(recipe, name).backbone.plain.state_dict()
    for path in (tmp_path / "w.safetensors", tmp_path / "w.pth"):
        safe = path.suffix == ".safetensors"
        save = safetensors.torch.save_file if safe else torch.save
        save(state, path)
        found = made(recipe, name, checkpoint=str(path)).backbone.plain.state_dict()
        assert all(torch.equal(value, state[key]) for key, value in found.items())
        save({key: value for key, value in state.items() if "norm." not in key}, path)
        with pytest.raises(
            UsageError, match=r"does not fit .*:transformer: .*norm\.weight"
        ):
            made(recipe, name, checkpoint=str(path))
    with pytest.raises(UsageError, match=r"no weights for .* at nowhere\.pth"):
        made(recipe, name, checkpoint="nowhere.pth")


def test_an_own_student_is_trained_in_float32(recipe: Recipe, own_networks: str) -> None:
    student = made(recipe, f"{own_networks}:half")
    assert {parameter.dtype for parameter in student.parameters()} == {torch.float32}
    assert student.embed(PIXELS).dtype == torch.float32


@pytest.mark.parametrize(
    ("width", "factory", "layer"),
    [
        (None, "convolutions", (24, 24)),
        (16, "transformer", (24, 16)),
        (24, "transformer", None),
    ],
)
def test_an_own_student_gets_an_embedding_layer_where_it_needs_one(
    recipe: Recipe,
    own_networks: str,
    width: int | None,
    factory: str,
    layer: tuple[int, int] | None,
) -> None:
    found = made(recipe, f"{own_networks}:{factory}", width=width).embedding
    shape = None if found is None else (found.in_features, found.out_features)
    assert shape == layer


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("breaks", r"breaks\(\) failed: OSError: no weights here"),
        ("dictionary", "return a torch.nn.Module, got a dict"),
        ("nothing", "found nothing of this name"),
        ("maps", r"gave \[2, 8, 30, 30\] for 2 images"),
        ("pairs", "gave a tuple"),
        ("frozen", "No weight of .* would be trained"),
        ("detached", "No weight of .* would be trained"),
        ("by_length", r"neither exported nor served.*`x\.shape\[0\]`"),
        ("by_value", r"neither exported nor served.*no Python `if`"),
        ("sparse", "only dense tensors in .*, got others at backbone.network.few"),
        ("trains_otherwise", "gave a tuple"),
    ],
)
def test_an_unsuitable_own_student_is_refused_before_any_image_is_read(
    recipe: Recipe,
    own_networks: str,
    tmp_path: Path,
    progress: Progress,
    factory: str,
    said: str,
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    small = changed(recipe, {"name": f"{own_networks}:{factory}"}, images=str(empty))
    with pytest.raises(UsageError, match=said):
        distill(small, tmp_path / "s.isogon", progress)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"student": {"name": "test_resnett"}}, "no model named 'test_resnett'"),
        ({"student": {"name": "test_resnet.no_tag"}}, "no weights 'no_tag' of test_resnet"),
        ({"student": {"name": "timm/test_resnet"}}, "hub is `hf-hub:timm/test_resnet`"),
        ({"student": {"name": "local-dir:/no"}}, "a folder with config.json"),
        (
            {"student": {"name": "no_module:factory"}},
            "no module 'no_module' for the student",
        ),
        ({"student": {"name": "test_vit"}, "data": {"size": 30}}, "images of 30 x 30"),
        (
            {"student": {"name": "test_vit", "checkpoint": "w.pth"}},
            "no weights for test_vit",
        ),
        (
            {"teacher": {"name": "test_vitt", "checkpoint": "w.pth"}},
            "no weights for|no model",
        ),
        (
            {"teacher": {"name": "test_vit", "checkpoint": "w.pth"}},
            "no weights for test_vit",
        ),
        (
            {"teacher": {"name": "no_module:factory"}},
            "no module 'no_module' for the teacher",
        ),
        ({"teacher": {"path": "e.npy"}}, "no embeddings at e.npy"),
    ],
)
def test_what_is_not_there_is_refused_before_any_image_is_read(
    recipe: Recipe,
    tmp_path: Path,
    progress: Progress,
    changes: dict[str, dict[str, object]],
    said: str,
) -> None:
    document = recipe.model_dump(mode="json", exclude_unset=True)
    (tmp_path / "empty").mkdir()
    document["data"] |= {"images": str(tmp_path / "empty")} | changes.pop("data", {})
    small = recipe_from_document(document | changes, where="tests")
    with pytest.raises(UsageError, match=said):
        distill(small, tmp_path / "s.isogon", progress)


def test_trying_the_models_leaves_the_random_numbers_alone(recipe: Recipe) -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    require_models(recipe)
    assert torch.equal(torch.rand(1), expected)


def test_keys_of_other_networks_are_refused(recipe: Recipe) -> None:
    with pytest.raises(UsageError, match="leave out `mean` with a timm model"):
        changed(recipe, {"name": "test_vit", "mean": [0.5, 0.5, 0.5]})
    with pytest.raises(UsageError, match="those of packages are for timm's"):
        changed(recipe, {"name": "m:f", "checkpoint": "package:x"})


def test_a_student_whose_design_is_in_a_folder_needs_the_folder_no_more(
    recipe: Recipe, bundle_of: BundleOf, tmp_path: Path
) -> None:
    """The bundle holds what its config.json says."""
    arguments = {"stem_type": "deep", "stem_width": 24}
    source = timm.create_model("test_resnet", **arguments)
    folder = tmp_path / "mine"
    timm.models.save_for_hf(source, folder, model_args=arguments, safe_serialization=True)
    name = f"local-dir:{folder}"
    small = changed(recipe, {"name": name, "pretrained": True, "width": 16})
    require_models(small)
    student, licence = student_from_recipe(small)
    bundle = bundle_of(student, card_of(student, small, licence), tmp_path / "s.isogon")
    shutil.rmtree(folder)
    card = bundle.manifest.student
    assert card.architecture == "test_resnet"
    assert arguments.items() <= card.arguments.items()
    again = student_from_bundle(bundle).state_dict()
    assert all(
        torch.equal(value, again[key]) for key, value in student.state_dict().items()
    )

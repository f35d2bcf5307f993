"""A bundle with a large bank through the whole export: searched in few bits, and gated."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from rich.progress import Progress

from distill import Recipe, recipe_from_document
from distill.distillation import distill
from export import ExportPlan, artifacts, export_bundle, verify
from export.deployed import DeployedFunction
from export.divergence import divergence_of
from export.engines import BuiltEngine, built_engine
from export.gate import Gate
from export.onnx import CoarseBank, coarse_bank, float32_model, reranked
from export.onnx.reading import SEARCH
from export.onnx.search import SMALLEST
from isogon.bundle import ONNX, Bundle, onnx_name
from isogon.runtimes import Machine

pytestmark = pytest.mark.slow  # distils a bundle of its own

WIDTH = 128
REFERENCE = "ood/reference.safetensors"


@pytest.fixture(scope="module")
def made(
    recipe: Recipe, tmp_path_factory: pytest.TempPathFactory, progress: Progress
) -> Path:
    """A distilled bundle whose bank is a hundred times as large."""
    path = tmp_path_factory.mktemp("large") / "digits.isogon"
    document = recipe.model_dump(mode="json", exclude_unset=True)
    document["student"]["width"] = WIDTH
    document["train"]["seed"] = 1  # of 0 the int8 file fails the gate
    bundle = distill(recipe_from_document(document, where="tests"), path, progress)
    seen = bundle.arrays(REFERENCE)["bank"]
    copies = np.resize(seen, (SMALLEST // WIDTH, WIDTH))
    away = np.random.default_rng(0).normal(size=copies.shape) / np.sqrt(WIDTH)
    bank = copies + away * np.linalg.norm(copies - seen.mean(axis=0), axis=1, keepdims=True)
    bank = (bank / np.linalg.norm(bank, axis=1, keepdims=True)).astype(np.float32)
    with bundle.stage("distill") as stage:
        stage.write_arrays(REFERENCE, {"bank": bank})
    return path


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Bundle:
    """A copy of the bundle that a test may change."""
    return Bundle.open(Path(shutil.copytree(made, tmp_path / "copy.isogon")))


def searches_in_few_bits(path: Path) -> bool:
    """Whether a file holds the search in two steps."""
    return any(node.name.startswith(SEARCH) for node in onnx.load(path).graph.node)


def test_every_precision_enters_and_searches_in_few_bits(
    bundle: Bundle, progress: Progress
) -> None:
    exported = export_bundle(bundle, progress, ExportPlan(lower=("fp16", "int8")))
    assert exported
    again = Bundle.open(bundle.path)
    names = [onnx_name(precision) for precision in ("fp32", "fp16", "int8")]
    assert all(searches_in_few_bits(again.file(name)) for name in names)
    assert exported.reports[0].figures.max_score_error < 1e-5
    assert len(verify(again, progress).reports) == 3
    for name in names:
        found = divergence_of(again, name, progress)
        assert found.candidate in name or name == ONNX
        assert found.first is None


def test_a_search_that_finds_the_wrong_ones_does_not_pass_the_gate(
    bundle: Bundle, progress: Progress, tmp_path: Path
) -> None:
    deployed = DeployedFunction.of(bundle)
    gate = Gate.of(deployed, ExportPlan(), progress)
    model = float32_model(deployed.graph, deployed.preprocessing, progress)
    quick = reranked(model, coarse_bank(model))
    assert quick is not model
    assert gate.judge(gate.try_model(quick, tmp_path / "right.onnx", ONNX, "fp32"))
    (weight,) = (each for each in quick.graph.initializer if each.name == f"{SEARCH}codes")
    shuffled = np.random.default_rng(0).permutation(numpy_helper.to_array(weight), axis=1)
    weight.CopyFrom(numpy_helper.from_array(shuffled, weight.name))
    report = gate.judge(gate.try_model(quick, tmp_path / "wrong.onnx", ONNX, "fp32"))
    assert not report
    assert any("max_score_error" in failure for failure in report.failures)


def test_where_few_bits_miss_the_nearest_the_plain_search_ships(
    bundle: Bundle, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    def misled(model: onnx.ModelProto) -> CoarseBank:
        right = coarse_bank(model)
        assert right is not None
        return replace(right, codes=np.random.default_rng(0).permutation(right.codes))

    monkeypatch.setattr(artifacts, "coarse_bank", misled)
    exported = export_bundle(bundle, progress)
    assert exported
    assert exported.reports[0].figures.max_score_error < 1e-5
    assert not searches_in_few_bits(Bundle.open(bundle.path).file(ONNX))


def test_a_repair_works_on_the_plain_search_and_ships_the_other(
    bundle: Bundle, progress: Progress
) -> None:
    arrays = bundle.arrays("model.safetensors")
    stem = "backbone.model."
    for norm, taken, given in (("conv1.1", 1, 1e6), ("conv1.4", 1e6, 1)):
        arrays[f"{stem}{norm}.running_mean"] *= np.float32(taken)
        arrays[f"{stem}{norm}.running_var"] *= np.float32(taken**2)
        arrays[f"{stem}{norm}.weight"] *= np.float32(given)  # overflows in float16
        arrays[f"{stem}{norm}.bias"] *= np.float32(given)
    with bundle.stage("distill") as stage:
        stage.write_arrays("model.safetensors", arrays)
    overflowing = Bundle.open(bundle.path)
    exported = export_bundle(overflowing, progress, ExportPlan(lower=("fp16",)))
    assert exported
    (made,) = exported.converted
    assert made.repair is not None
    assert made.repair.keep
    assert not [n for n in made.model.graph.node if n.name.startswith(SEARCH)]
    assert searches_in_few_bits(Bundle.open(bundle.path).file(onnx_name("fp16")))


@pytest.mark.skipif(Machine.here().gpu is not None, reason="engines can run here")
def test_engines_are_built_from_the_plain_search(
    bundle: Bundle, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, bool] = {}

    def build(file: Path, precision: str, **options: object) -> BuiltEngine:
        seen[precision] = searches_in_few_bits(file)
        return built_engine(file, precision, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(artifacts, "built_engine", build)
    plan = ExportPlan(engine="tensorrt-rtx", lower=("fp16", "int8"), build_only=True)
    exported = export_bundle(bundle, progress, plan)
    assert not exported.failed
    assert seen == {"fp16": False, "int8": False}
    assert all(
        searches_in_few_bits(Bundle.open(bundle.path).file(report.artifact))
        for report in exported.reports
    )

"""The benchmarks run at their smallest size, and print what they should."""

import argparse
import copy
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from rich.progress import Progress

from export import TorchRunner
from isogon.bundle import Bundle
from isogon.images import ImageFolder
from isogon.networks import Student, preprocessing_of, timm_model
from isogon.runtimes import OnnxRunner
from isogon.runtimes.cuda import CudaDevice, cuda_device

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"


Load = Callable[[str], ModuleType]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Load:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return import_module


@pytest.mark.parametrize("name", ["families", "runtime", "gpu_check", "int8"])
def test_a_benchmark_says_what_it_takes(
    name: str,
    benchmark: Load,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        benchmark(name).main()
    assert ended.value.code == 0
    assert "--images" in (shown := capsys.readouterr().out) or "--bundle" in shown


@pytest.mark.skipif(cuda_device() is not None, reason="there is a CUDA device")
def test_the_gpu_check_asks_for_a_gpu_before_anything_heavy() -> None:
    answer = subprocess.run(
        [sys.executable, "-X", "importtime", BENCHMARKS / "gpu_check.py"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert answer.returncode == 2
    assert "needs a CUDA device" in answer.stderr
    assert answer.stdout == ""
    assert "| torch\n" not in answer.stderr


def _student(name: str, size: int) -> Student:
    torch.manual_seed(0)
    model = timm_model(name, size=(size, size))
    return Student.new(model, preprocessing_of(name, size, 1.0), width=48).eval()


def _pixels(folder: Path, size: int) -> np.ndarray:
    preprocessing = preprocessing_of("test_resnet", size, 1.0)
    images = ImageFolder.list(folder)
    progress = Progress(disable=True)
    return images.pixels(np.arange(len(images)), preprocessing, progress)


def _likeness(student: Student, pixels: np.ndarray) -> float:
    """The mean cosine of different images, before the embedding layer."""
    with torch.inference_mode():
        vectors = F.normalize(student.backbone(torch.from_numpy(pixels)).pooled, dim=1)
    others = ~torch.eye(len(pixels), dtype=torch.bool)
    return float((vectors @ vectors.T)[others].mean())


@pytest.mark.parametrize(
    ("name", "size"), [("test_vit", 160), ("test_resnet", 64), ("test_convnext", 64)]
)
def test_lively_weights_tell_images_apart(
    name: str, size: int, photographs: Path, benchmark: Load
) -> None:
    lively = benchmark("lively").lively
    pixels = _pixels(photographs, size)
    student = _student(name, size)
    with torch.inference_mode():
        fresh = student.embed(torch.from_numpy(pixels))
    assert _likeness(lively(student, pixels, 0), pixels) < 0.95
    assert not student.training
    with torch.inference_mode():
        embeddings = student.embed(torch.from_numpy(pixels))
        again = lively(_student(name, size), pixels, 0).embed(torch.from_numpy(pixels))
    assert torch.isfinite(embeddings).all()
    assert (embeddings * fresh).sum(dim=1).abs().max() < 0.9
    assert torch.equal(embeddings, again)


def test_lively_norms_have_channels_that_stand_out(
    photographs: Path, benchmark: Load
) -> None:
    pixels = _pixels(photographs, 64)
    student = benchmark("lively").lively(_student("test_resnet", 64), pixels, 0)
    norm = student.backbone.model.layer1[0].bn1
    assert norm.weight.max() > 3 * norm.weight.median()
    assert norm.bias.abs().max() > 0.1
    assert not torch.allclose(norm.running_mean, torch.zeros_like(norm.running_mean))


@pytest.fixture
def families(
    benchmark: Load,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> Callable[[str, str], str]:
    """Make the row of one model, whose process imports this worktree; return the page."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))

    def page(model: str, size: str) -> str:
        arguments = ["--model", model, size, "--runs", str(tmp_path / "runs")]
        monkeypatch.setattr(sys, "argv", ["families.py", *arguments])
        benchmark("families").main()
        return capsys.readouterr().out

    return page


@pytest.mark.slow
def test_a_family_becomes_a_row_and_is_not_made_twice(
    families: Callable[[str, str], str], tmp_path: Path
) -> None:
    first = families("test_resnet", "64")
    (row,) = (line for line in first.splitlines() if line.startswith("| test_resnet"))
    assert "ok 1.000000" in row.split(" | ")[5]
    assert not list(tmp_path.rglob("*.onnx"))
    kept = tmp_path / "runs" / "test_resnet-64" / "row.json"
    when = kept.stat().st_mtime_ns
    assert row in families("test_resnet", "64")
    assert kept.stat().st_mtime_ns == when


@pytest.mark.slow
def test_a_family_that_cannot_be_built_is_a_row_with_its_reason(
    families: Callable[[str, str], str],
) -> None:
    page = families("test_vit", "100")
    assert page.count("does not take images of 100 x 100 pixels") == 6
    assert "Of 1 models pass: fp32 0" in page


@pytest.mark.slow
def test_int8_is_measured_at_four_stations_and_once(
    exported: Path,
    benchmark: Load,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    arguments = ["--bundle", str(exported), "--steps", "2", "--runs", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["int8.py", *arguments])
    int8 = benchmark("int8")
    int8.main()
    first = capsys.readouterr().out
    (kept,) = tmp_path.glob("*.json")
    row = int8.StudentRow.model_validate_json(kept.read_text())
    assert list(row.stations) == list(int8.STATIONS)
    assert row.minutes > 0
    assert row.stations["repaired"].ok >= row.stations["converted"].ok
    assert "fine-tuned, repaired 1 of 1 measured" in first
    when = kept.stat().st_mtime_ns
    row.stations.pop("fine-tuned")
    int8.main()
    assert capsys.readouterr().out.split("\n", 3)[3] == first.split("\n", 3)[3]
    assert kept.stat().st_mtime_ns == when
    kept.write_text(row.model_dump_json())
    int8.main()
    again = int8.StudentRow.model_validate_json(kept.read_text())
    assert again.stations == row.stations | {"fine-tuned": again.stations["fine-tuned"]}


def test_rounds_alternate_and_measure_every_runner(exported: Path, benchmark: Load) -> None:
    bundle = Bundle.open(exported)
    runner = OnnxRunner(bundle.file("onnx/model.onnx"), provider="cpu")
    pixels = bundle.arrays("held_out.safetensors")["familiar"][:4]
    times = benchmark("runners").interleaved(
        {"one": runner, "other": runner}, pixels, rounds=3, seconds=0.01
    )
    assert {name: len(values) for name, values in times.items()} == {"one": 3, "other": 3}
    assert all(value > 0 for values in times.values() for value in values)


@pytest.mark.slow
def test_the_gpu_check_reports_what_ran_and_what_did_not(
    exported: Path, tmp_path: Path, benchmark: Load
) -> None:
    """The steps themselves, with CPU runners in place of a GPU's."""
    steps = benchmark("gpu_steps")
    device = CudaDevice(name="none, in a test", architecture="sm00")
    check = steps.GpuCheck(device, Bundle.open(exported), tmp_path)

    def broken() -> OnnxRunner:
        return OnnxRunner(tmp_path / "missing.onnx", provider="cpu")

    def float16() -> OnnxRunner:
        return OnnxRunner(tmp_path / "model.fp16.onnx", provider="cpu")

    def spoilt() -> TorchRunner:
        graph = copy.deepcopy(check.deployed.graph)
        with torch.no_grad():
            next(graph.parameters()).neg_()
        return TorchRunner(graph)

    makers = {
        steps.EAGER: ("fp32", lambda: TorchRunner(check.deployed.graph)),
        "in float16": ("fp16", float16),
        "spoilt": ("fp32", spoilt),
        "missing": ("fp32", broken),
    }
    check.run(makers, rounds=2, seconds=0.001)
    assert check.reports["in float16"]
    assert set(check.failures) == {"spoilt, parity", "missing, parity"}
    page = steps.report(check, "Conditions.", "test_resnet")
    assert "| in float16 | ok | 0.99999" in page
    assert "| spoilt | **fails** |" in page
    assert "* missing, parity: BundleError" in page


@pytest.mark.slow  # two int8 files, and an engine of each precision
def test_a_dry_run_of_the_gpu_check_takes_every_step_up_to_the_device(
    exported: Path, tmp_path: Path, benchmark: Load
) -> None:
    page = tmp_path / "page.md"
    options = argparse.Namespace(bundle=exported, output=page, rounds=1, seconds=0.001)
    if cuda_device() is not None:
        pytest.skip("there is a CUDA device")
    failures = benchmark("gpu_steps").checked(None, options)
    assert failures == {}
    shown = page.read_text()
    assert "# GPU check: a dry run without one" in shown
    for step in ("torch CUDA eager", "ONNX CUDA int8", "tensorrt-rtx fp16"):
        assert f"* {step}, parity" in shown.partition("Only the device was missing")[2]
    assert "Nothing failed before the device." in shown


def test_drift_promises_before_it_shows(
    benchmark: Load,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    drift = benchmark("drift")
    monkeypatch.setattr(drift, "CALIBRATIONS", (200,))
    monkeypatch.setattr(drift, "WINDOWS", (200,))
    monkeypatch.setattr(
        drift, "DRIFTS", {"all": drift.mixed(1.0), "none": drift.mixed(0.0)}
    )
    picture = tmp_path / "drift.svg"
    monkeypatch.setattr(sys, "argv", ["drift", "--runs", "50", "--svg", str(picture)])
    drift.main()
    shown = capsys.readouterr().out
    assert "| 200 | 1,000,000 | 0.20% | 0.00% |" in shown
    assert "| none | never |" in shown
    (delay,) = (
        line.split("|")[2] for line in shown.splitlines() if line.startswith("| all |")
    )
    assert 0 < int(delay) <= 100
    assert picture.read_text().count("<path") > 5


@pytest.mark.slow
@pytest.mark.timeout(600)  # five processes, of which four are servers
def test_the_serving_benchmark_drives_real_servers(
    exported: Path, photographs: Path, tmp_path: Path
) -> None:
    """As a process, because its folder has a module with the name of our package."""
    peers = ["plain BentoML", f"LitServe, {os.cpu_count()} workers", "FastAPI"]
    arguments = ["--images", photographs, "--bundle", exported, "--peers", *peers]
    short = ["--rounds", "1", "--seconds", "0.2", "--starts", "1", "--bank", "100"]
    answer = subprocess.run(
        [sys.executable, BENCHMARKS / "serving.py", *arguments, *short],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert answer.returncode == 0, answer.stderr
    page = answer.stdout
    rows = [line.split(" | ") for line in page.splitlines()]
    goals = [row for row in rows if row[-1] in ("pass |", "**miss** |")]
    assert len(goals) == 8
    assert "nan" not in page
    _, _, figures = page.partition("### Images per second\n")
    table, _, _ = figures.partition("\n###")
    throughputs = {
        name.removeprefix("| "): values
        for name, *values in (line.split(" | ") for line in table.splitlines())
    }
    for name in ("in process", "Isogon", *peers):
        assert float(throughputs[name][0]) > 0
    ours = [row for row in rows if row[0] == "| Isogon"][-1]
    assert ours[-1] == "not loaded |"
    assert "Requests that were not answered" not in page


@pytest.mark.slow
def test_bulk_embedding_is_measured_beside_a_bare_loop(
    exported: Path, photographs: Path
) -> None:
    command = [sys.executable, BENCHMARKS / "embedding.py", "--bundle", exported]
    command += ["--images", photographs, "--copies", "8", "--workers", "1", "--rounds", "1"]
    done = subprocess.run(
        [*map(str, command)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    row = done.stdout.splitlines()[-1].split("|")
    workers, loop, engine = (int(cell) for cell in row[1:4])
    ratio = float(row[4].split()[0])
    assert workers == 1
    assert ratio == pytest.approx(engine / loop, rel=0.1)

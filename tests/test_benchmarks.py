"""The benchmarks run, at their smallest, and say what they promise to say."""

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from rich.progress import Progress

from backbones import Student, preprocessing_of, timm_model
from bundle import Bundle, ImageFolder, OnnxRunner
from bundle.cuda import CudaDevice, cuda_device

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> "type[_Modules]":
    monkeypatch.syspath_prepend(BENCHMARKS)
    return _Modules


class _Modules:
    @staticmethod
    def load(name: str) -> ModuleType:
        return import_module(name)


def _run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )


@pytest.mark.parametrize("script", ["families.py", "runtime.py", "gpu_check.py"])
def test_a_benchmark_says_what_it_takes(script: str) -> None:
    answer = _run(script, "--help")
    assert answer.returncode == 0, answer.stderr
    assert "--output" in answer.stdout or "--images" in answer.stdout


@pytest.mark.skipif(cuda_device() is not None, reason="there is a CUDA device")
def test_the_gpu_check_asks_for_a_gpu() -> None:
    answer = _run("gpu_check.py")
    assert answer.returncode == 2
    assert "needs a CUDA device" in answer.stderr
    assert answer.stdout == ""


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
    name: str, size: int, photographs: Path, benchmark: "type[_Modules]"
) -> None:
    lively = benchmark.load("lively").lively
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
    photographs: Path, benchmark: "type[_Modules]"
) -> None:
    pixels = _pixels(photographs, 64)
    student = benchmark.load("lively").lively(_student("test_resnet", 64), pixels, 0)
    norm = student.backbone.model.layer1[0].bn1
    assert norm.weight.max() > 3 * norm.weight.median()
    assert norm.bias.abs().max() > 0.1
    assert not torch.allclose(norm.running_mean, torch.zeros_like(norm.running_mean))


def test_a_family_becomes_a_row_and_is_not_made_twice(tmp_path: Path) -> None:
    arguments = ("--model", "test_vit", "160", "--runs", str(tmp_path))
    answer = _run("families.py", *arguments)
    assert answer.returncode == 0, answer.stderr
    (row,) = (line for line in answer.stdout.splitlines() if line.startswith("| test_vit"))
    assert row.count(" | ") == 10
    assert "ok 1.000000" in row.split(" | ")[5]
    assert not list(tmp_path.rglob("*.onnx"))
    kept = tmp_path / "test_vit-160" / "row.json"
    when = kept.stat().st_mtime_ns
    assert row in _run("families.py", *arguments).stdout
    assert kept.stat().st_mtime_ns == when


def test_a_family_that_cannot_be_built_is_a_row_with_its_reason(tmp_path: Path) -> None:
    answer = _run("families.py", "--model", "test_vit", "100", "--runs", str(tmp_path))
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.count("does not take images of 100 x 100 pixels") == 6


def test_rounds_alternate_and_measure_every_runner(
    exported: Path, benchmark: "type[_Modules]"
) -> None:
    bundle = Bundle.open(exported)
    runner = OnnxRunner(bundle.file("onnx/model.onnx"), provider="cpu")
    pixels = bundle.arrays("held_out.safetensors")["familiar"][:4]
    times = benchmark.load("timing").interleaved(
        {"one": runner, "other": runner}, pixels, rounds=3, seconds=0.01
    )
    assert {name: len(values) for name, values in times.items()} == {"one": 3, "other": 3}
    assert all(value > 0 for values in times.values() for value in values)


def test_the_gpu_check_reports_what_ran_and_what_did_not(
    exported: Path, tmp_path: Path, benchmark: "type[_Modules]"
) -> None:
    """The steps themselves, with CPU runners in the place of a GPU's."""
    steps = benchmark.load("gpu_steps")
    device = CudaDevice(name="none, in a test", architecture="sm00")
    check = steps.GpuCheck(device, Bundle.open(exported), tmp_path)

    def broken() -> OnnxRunner:
        return OnnxRunner(tmp_path / "missing.onnx", provider="cpu")

    def float16() -> OnnxRunner:
        return OnnxRunner(check.file("fp16"), provider="cpu")

    makers = {
        steps.EAGER: ("fp32", lambda: steps.TorchRunner(check.graph)),
        "in float16": ("fp16", float16),
        "float16 said to be float32": ("fp32", float16),
        "missing": ("fp32", broken),
    }
    check.run(makers, rounds=2, seconds=0.001)
    assert check.reports["in float16"]
    assert set(check.failures) == {
        "float16 said to be float32, parity",
        "missing, parity",
    }
    page = steps.report(check, "Conditions.", "test_resnet")
    assert "| in float16 | ok | 0.99999" in page
    assert "| float16 said to be float32 | **fails** |" in page
    assert "* missing, parity: BundleError" in page

"""Runners on a machine without a GPU: their errors, and their fallback to the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from isogon.bundle import ONNX, Bundle
from isogon.errors import UsageError
from isogon.runtimes import Device, OnnxRunner, Provider, cuda_device, onnx as onnx_runner

SCRIPT = """
import json, sys
from pathlib import Path
from isogon.errors import IsogonError; from isogon.runtimes import OnnxRunner, TensorRTRunner

asked = {
    "engine": lambda: TensorRTRunner(Path("sm86-rtx1.7-fp32.engine")),
    "stamp": lambda: TensorRTRunner(Path("model.engine")),
    "cuda": lambda: OnnxRunner(Path(sys.argv[1]), provider="cuda"),
    "second": lambda: OnnxRunner(Path(sys.argv[1]), provider="cuda", number=1),
    "tensorrt": lambda: OnnxRunner(Path(sys.argv[1]), provider="tensorrt"),
    "auto": lambda: OnnxRunner(Path(sys.argv[1])),
    "cpu": lambda: OnnxRunner(Path(sys.argv[1]), provider="cpu", threads=1),
}
found = {}
for name, ask in asked.items():
    try:
        found[name] = ["", ask().name]
    except IsogonError as error:
        found[name] = [type(error).__name__, str(error)]
found["modules"] = sorted({module.partition(".")[0] for module in sys.modules})
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def without_device(exported: Path) -> dict[str, Any]:
    """The answers of a process without a CUDA device; the machine may have one."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(exported / ONNX)],
        cwd=Path(__file__).parents[3],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""  # ONNX Runtime logs errors where CUDA is asked for in vain
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_an_engine_without_a_device_is_refused_before_tensorrt_is_imported(
    without_device: dict[str, Any],
) -> None:
    kind, message = without_device["engine"]
    assert kind == "EngineMismatchError"
    assert "sees no CUDA device" in message and "Serve the ONNX graph" in message
    assert without_device["stamp"][0] == "EngineMismatchError"
    assert not {"tensorrt", "tensorrt_rtx", "cuda"} & set(without_device["modules"])


def test_a_provider_that_is_not_available_is_refused(
    without_device: dict[str, Any],
) -> None:
    for provider in ("cuda", "tensorrt"):
        kind, message = without_device[provider]
        assert kind == "UsageError"
        assert f"Provider `{provider}` needs an NVIDIA GPU" in message
    assert "this process sees no CUDA device 1." in without_device["second"][1]


def test_a_device_is_read_as_operators_write_it() -> None:
    written = {"auto": ("auto", 0), "cpu": ("cpu", 0), "cuda": ("cuda", 0)}
    for text, (provider, number) in (written | {"cuda:1": ("cuda", 1)}).items():
        found = Device.parse(text)
        assert (found.provider, found.number) == (provider, number)
    for text in ("gpu", "cuda:", "cuda:-1", "CPU", "cpu:1", ""):
        with pytest.raises(
            UsageError, match="Expected a device, auto, cpu, cuda or cuda:1, got"
        ):
            Device.parse(text)


def test_without_a_device_onnx_runtime_takes_the_cpu_and_says_so(
    without_device: dict[str, Any],
) -> None:
    cpu = f"onnxruntime {onnxruntime.__version__} CPUExecutionProvider"
    assert without_device["auto"] == without_device["cpu"] == ["", cpu]


def test_a_provider_that_onnx_runtime_was_built_without_is_named(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = onnx_runner.CudaDevice(name="NVIDIA H200", architecture="sm90")
    monkeypatch.setattr(onnx_runner, "cuda_device", lambda number: device)
    listed = ["CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)
    path = bundle.file(ONNX)
    with pytest.raises(UsageError, match="CUDAExecutionProvider, but ONNX Runtime"):
        OnnxRunner(path, provider="cuda")
    with pytest.raises(UsageError, match="TensorrtExecutionProvider or NvTensorRTRTX"):
        OnnxRunner(path, provider="tensorrt")
    assert OnnxRunner(path).name.endswith("CPUExecutionProvider")


@pytest.mark.skipif(cuda_device() is not None, reason="CUDA may load here")
def test_a_fall_back_of_onnx_runtime_is_an_error_or_is_in_the_name(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    device = onnx_runner.CudaDevice(name="NVIDIA H200", architecture="sm90")
    monkeypatch.setattr(onnx_runner, "cuda_device", lambda number: device)
    path = bundle.file(ONNX)
    providers: tuple[Provider, ...] = ("cuda", "tensorrt")
    for provider in providers:
        with pytest.raises(UsageError, match=r"fell back to CPUExecutionProvider: .+"):
            OnnxRunner(path, provider=provider)
    name = OnnxRunner(path).name
    assert name.endswith("CPUExecutionProvider (CUDAExecutionProvider did not load)")
    assert capfd.readouterr().out == ""


def test_onnx_runtime_sends_no_usage_data_and_leaves_no_identifier(
    exported: Path, tmp_path: Path
) -> None:
    run = (
        "import sys, pathlib; from isogon.runtimes import OnnxRunner; "
        "OnnxRunner(pathlib.Path(sys.argv[1]))"
    )
    plain = (
        "import sys, onnxruntime as o; "
        "o.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])"
    )
    left = {}
    for name, code in (("ours", run), ("onnxruntime", plain)):
        home = tmp_path / name
        home.mkdir()
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("ORT_", "XDG_"))}
        subprocess.run(
            [sys.executable, "-c", code, exported / ONNX],
            env={k: v for k, v in kept.items() if k != "CI"} | {"HOME": str(home)},
            check=True,
            capture_output=True,
        )
        left[name] = [path.name for path in home.rglob("*")]
    assert left["ours"] == []
    # Should it leave nothing by itself one day, the variable is no longer needed.
    assert "deviceid" in left["onnxruntime"]

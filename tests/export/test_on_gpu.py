"""Tests that need a GPU; skipped without one. `make gpu-check` runs these."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from rich.progress import Progress

from export.parity import HELD_OUT
from export.tensorrt.builder import build_engine
from export.tensorrt.options import EngineOptions, known_architectures
from isogon.bundle import ONNX, Bundle
from isogon.parity import TOLERANCES
from isogon.runtimes import (
    BatchProfile,
    Flavour,
    Machine,
    OnnxRunner,
    Outputs,
    Pixels,
    Runner,
    TensorRTRunner,
    cuda_device,
)
from isogon.runtimes.cuda import Buffer, Stream

HERE = Machine.here()
PROFILE = BatchProfile(minimum=2, optimum=4, maximum=16)

pytestmark = pytest.mark.skipif(cuda_device() is None, reason="no CUDA device")


@pytest.fixture(scope="module")
def flavour() -> Flavour:
    if "rtx" in HERE.versions and HERE.gpu in known_architectures():
        return "tensorrt-rtx"
    if "trt" not in HERE.versions:
        pytest.skip(f"no TensorRT that runs on {HERE.gpu} is installed")
    return "tensorrt"


@pytest.fixture(scope="module")
def pixels(exported: Path) -> Pixels:
    held_out = Bundle.open(exported).arrays(HELD_OUT)
    return np.concatenate([held_out["familiar"], held_out["unfamiliar"]])[:40]


@pytest.fixture(scope="module")
def engine(
    exported: Path,
    flavour: Flavour,
    tmp_path_factory: pytest.TempPathFactory,
    progress: Progress,
) -> Path:
    rtx = flavour == "tensorrt-rtx"
    options = EngineOptions(
        flavour=flavour,
        precision="fp32",
        architectures=(HERE.gpu,) if rtx and HERE.gpu is not None else (),
    )
    folder = tmp_path_factory.mktemp("engines")
    path = folder / Path(options.stamp().name).name
    cache = folder / "timing.cache"
    graph = exported / ONNX
    for _ in range(2):  # the second time with the first one's timings
        plan = build_engine(
            graph, options, profile=PROFILE, progress=progress, timing_cache=cache
        )
    path.write_bytes(plan)
    assert cache.exists() is not rtx
    return path


def require_equal(runner: Runner, expected: Outputs, pixels: Pixels) -> None:
    """Every batch size: below the smallest, within the profile, beyond the largest."""
    bounds = TOLERANCES["fp32"]
    scale = np.ptp(expected.ood_scores)
    for size in (1, 2, 7, 16, 40):
        found = runner.run_all(pixels, size)
        error = np.abs(found.embeddings - expected.embeddings).max()
        assert error <= bounds.max_abs_error, size
        scores = np.abs(found.ood_scores - expected.ood_scores).max() / scale
        assert scores <= bounds.max_score_error, size


@pytest.mark.parametrize("graphs", [False, True])
def test_an_engine_answers_as_the_cpu_does(
    graphs: bool, engine: Path, exported: Path, pixels: Pixels
) -> None:
    expected = OnnxRunner(exported / ONNX, provider="cpu").run(pixels)
    runner = TensorRTRunner(engine, graphs=graphs)
    assert runner.profile == PROFILE
    stored = Bundle.open(exported).manifest.preprocessing.model_dump_json()
    assert runner.preprocessing == stored
    for _ in range(2):  # the second time from the graphs of the first
        require_equal(runner, expected, pixels)
    assert len(runner.run(pixels[:0])) == 0


def test_several_threads_may_call_an_engine(engine: Path, pixels: Pixels) -> None:
    runner = TensorRTRunner(engine)
    expected = runner.run(pixels)
    parts = [pixels[start : start + 16] for start in range(len(pixels) - 16)]
    with ThreadPoolExecutor(4) as pool:
        for start, found in enumerate(pool.map(runner.run, parts)):
            assert found.embeddings == pytest.approx(
                expected.embeddings[start : start + 16], abs=1e-5
            )


def test_onnx_runtime_on_cuda_answers_as_on_the_cpu(exported: Path, pixels: Pixels) -> None:
    expected = OnnxRunner(exported / ONNX, provider="cpu").run(pixels)
    runner = OnnxRunner(exported / ONNX, provider="cuda")
    device = cuda_device()
    assert device is not None
    assert runner.name.endswith(f"CUDAExecutionProvider on {device.name}")
    require_equal(runner, expected, pixels)


def test_buffers_and_graphs_move_what_they_are_given() -> None:
    pytest.importorskip("cuda.bindings")
    stream, buffer = Stream(), Buffer((8, 3), np.float32)
    given = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    buffer.host[:] = given
    buffer.upload(6, stream)
    stream.synchronize()
    graph = stream.recorded(lambda: buffer.download(5, stream))
    for _ in range(2):
        buffer.host[:] = 0
        stream.launch(graph)
        stream.synchronize()
        np.testing.assert_array_equal(buffer.host[:5], given[:5])
        assert not buffer.host[5:].any()

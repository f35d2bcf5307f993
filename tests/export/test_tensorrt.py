"""Engines are built for real, by TensorRT for RTX, which needs no GPU for it."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tensorrt_rtx
import torch
from onnx import TensorProto, helper
from rich.progress import Progress

from export.graph import DeployedGraph
from export.onnx import save_onnx
from export.onnx.float16 import float16_model
from export.tensorrt import options as engine_options
from export.tensorrt.builder import (
    build_engine,
    builder_config,
    load_timing_cache,
    save_timing_cache,
)
from export.tensorrt.options import EngineOptions
from isogon.bundle import ONNX, Bundle
from isogon.errors import UsageError
from isogon.images import Preprocessing
from isogon.networks import Student, timm_model
from isogon.ood import DetectorSpec
from isogon.runtimes import (
    BatchProfile,
    EngineStamp,
    Machine,
    Precision,
    tensorrt as tensorrt_runtime,
)

PROFILE = BatchProfile(minimum=1, optimum=4, maximum=16)
HERE = Machine.here()
ALL = "sm80+sm86+sm89+sm120"


class Watched(Progress):
    """A progress that keeps what was added to it."""

    def __init__(self) -> None:
        super().__init__(disable=True)
        self.added: list[str] = []

    def add_task(self, description: str, *others: Any, **more: Any) -> Any:
        self.added.append(description)
        return super().add_task(description, *others, **more)


def rtx(precision: Precision = "fp32", *architectures: str) -> EngineOptions:
    return EngineOptions(
        flavour="tensorrt-rtx", precision=precision, architectures=architectures
    )


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The float32 ONNX file of a small ViT with a detector that has a probe."""
    preprocessing = Preprocessing(
        height=96, width=96, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)
    )
    torch.manual_seed(0)
    model = timm_model("test_vit", size=(96, 96))
    student = Student.new(model, preprocessing, width=32).eval()
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (60, 96, 96, 3), dtype=np.uint8)
    with torch.inference_mode():
        embeddings = student.embed(torch.from_numpy(pixels)).numpy()
    labels = generator.integers(0, 4, 60)
    detector = DetectorSpec(name="vim", dim=8).fit(embeddings, labels)
    path = tmp_path_factory.mktemp("vit") / "model.onnx"
    save_onnx(DeployedGraph(student, detector), preprocessing, path)
    return path


def test_a_convolutional_students_engine_is_built_and_its_phases_are_shown(
    bundle: Bundle,
) -> None:
    progress = Watched()
    plan = build_engine(bundle.file(ONNX), rtx(), profile=PROFILE, progress=progress)
    assert len(plan) > bundle.file("model.safetensors").stat().st_size
    stored = bundle.manifest.preprocessing.model_dump_json()
    assert stored.encode() in plan  # the runner compares it with the manifest's
    depths = {len(name) - len(name.lstrip()) for name in progress.added}
    assert {0, 2, 4} <= depths  # phases within phases
    assert [(task.completed, task.total) for task in progress.tasks] == [
        (task.total, task.total) for task in progress.tasks
    ]
    assert len(progress.tasks) < len(progress.added)  # inner bars go when they are done


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_vits_engine_is_built_in_the_types_of_its_graph(
    vit: Path, precision: Precision, tmp_path: Path, progress: Progress
) -> None:
    path = vit
    if precision == "fp16":
        path = tmp_path / "model.fp16.onnx"
        onnx.save(float16_model(onnx.load(vit)), path)
    plan = build_engine(path, rtx(precision), profile=PROFILE, progress=progress)
    weights = vit.stat().st_size
    assert len(plan) > weights / (2 if precision == "fp16" else 1)
    other: Precision = "fp32" if precision == "fp16" else "fp16"
    with pytest.raises(UsageError, match=f"computes in {precision}.*cannot be a {other}"):
        build_engine(path, rtx(other), profile=PROFILE, progress=progress)


def test_tf32_is_off_and_the_targets_are_those_that_were_named() -> None:
    log = tensorrt_runtime.tensorrt_log("tensorrt-rtx")
    config = builder_config(tensorrt_rtx.Builder(log), rtx("fp16", "sm89", "sm86"))
    assert not config.get_flag(tensorrt_rtx.BuilderFlag.TF32)
    assert config.num_compute_capabilities == 2
    targets = [config.get_compute_capability(place).name for place in range(2)]
    assert targets == ["SM86", "SM89"]


def test_the_stamp_names_flavour_version_precision_and_every_gpu() -> None:
    version = ".".join(tensorrt_rtx.__version__.split(".")[:2])
    stamp = rtx("fp16", "sm89", "sm86").stamp()
    assert stamp.name == f"engines/sm86+sm89-rtx{version}-fp16.engine"
    everywhere = rtx().stamp()
    assert everywhere.gpu.startswith(ALL)
    for gpu in ALL.split("+"):
        everywhere.require_match(Machine(gpu=gpu, versions={"rtx": version}))


def test_options_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(UsageError, match=r"builds for sm80.*not for sm75, sm90"):
        rtx("fp32", "sm75", "sm86", "sm90").stamp()
    for choice in ("version_compatible", "hardware_compatible"):
        compatible = EngineOptions(
            flavour="tensorrt-rtx", precision="fp32", **{choice: True}
        )
        with pytest.raises(UsageError, match='are for engine="tensorrt"'):
            compatible.stamp()


@pytest.mark.skipif("trt" in HERE.versions, reason="tensorrt is installed")
def test_a_flavour_that_is_not_installed_is_named_with_its_installation(
    vit: Path, progress: Progress
) -> None:
    wanted = EngineOptions(flavour="tensorrt", precision="fp32")
    with pytest.raises(UsageError, match="`pip install tensorrt "):
        build_engine(vit, wanted, profile=PROFILE, progress=progress)


def test_tensorrt_is_stamped_by_the_gpu_that_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stamp(gpu: str | None, **chosen: Any) -> EngineStamp:
        machine = Machine(gpu=gpu, versions={"trt": "11.4"})
        monkeypatch.setattr(engine_options.Machine, "here", lambda: machine)
        return EngineOptions(flavour="tensorrt", precision="int8", **chosen).stamp()

    monkeypatch.setattr(engine_options, "tensorrt_module", lambda flavour: tensorrt_rtx)
    monkeypatch.setattr(engine_options, "installed_version", lambda package: "11.4")
    assert stamp("sm90").name == "engines/sm90-trt11.4-int8.engine"
    assert stamp("sm90", hardware_compatible=True).gpu == "sm80up"
    assert stamp("sm90", version_compatible=True).version == "11.4up"
    with pytest.raises(UsageError, match="sees no CUDA device"):
        stamp(None)
    with pytest.raises(UsageError, match="on sm80 or later, and this GPU is sm75"):
        stamp("sm75", hardware_compatible=True)
    with pytest.raises(
        UsageError, match="builds for the GPU of this machine, not for sm86"
    ):
        stamp("sm90", architectures=("sm86",))


def test_ten_asks_for_strong_types_and_eleven_has_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert engine_options.network_flags("tensorrt-rtx") == 1
    monkeypatch.setitem(tensorrt_runtime.MODULES, "tensorrt", "tensorrt_rtx")
    for version, flags in [("10.16.1.11", 1), ("11.4.0.106", 0)]:
        monkeypatch.setattr(tensorrt_rtx, "__version__", version)
        assert engine_options.network_flags("tensorrt") == flags


def test_a_node_that_tensorrt_does_not_take_is_named_with_its_torch_module(
    tmp_path: Path, progress: Progress
) -> None:
    node = helper.make_node(
        "Transpose", ["images"], ["out"], "node_permute", perm=[0, 2, 1]
    )
    node.metadata_props.add(
        key="pkg.torch.onnx.name_scopes",
        value="['', 'student.backbone', 'student.backbone.stem', 'permute']",
    )
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["b", 4, 3])
    out = helper.make_tensor_value_info("out", TensorProto.UINT8, ["b", 3, 4])
    graph = helper.make_graph([node], "uint8", [images], [out])
    path = tmp_path / "uint8.onnx"
    opsets = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=opsets), path)
    with pytest.raises(
        UsageError,
        match=r"Transpose node 'node_permute' \(torch module student\.backbone\.stem\): "
        r".*UInt8.*\(INVALID_NODE\)",
    ):
        build_engine(path, rtx(), profile=PROFILE, progress=progress)


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path, progress: Progress) -> None:
    path = tmp_path / "broken.onnx"
    with pytest.raises(UsageError, match="cannot be read as an ONNX file"):
        build_engine(path, rtx(), profile=PROFILE, progress=progress)
    path.write_bytes(b"not protobuf")
    with pytest.raises(UsageError, match="cannot be read as an ONNX file"):
        build_engine(path, rtx(), profile=PROFILE, progress=progress)
    path.write_bytes(b"")
    with pytest.raises(UsageError, match="must have the single input `images`"):
        build_engine(path, rtx(), profile=PROFILE, progress=progress)


def test_a_build_that_fails_says_why(
    bundle: Bundle, tmp_path: Path, progress: Progress
) -> None:
    model = onnx.load(bundle.file(ONNX))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3  # a fixed batch
    path = tmp_path / "fixed.onnx"
    onnx.save(model, path)
    with pytest.raises(UsageError, match=r"could not build engines/sm80.*profile"):
        build_engine(path, rtx(), profile=PROFILE, progress=progress)


def test_an_interrupt_stops_the_build_at_its_next_step(bundle: Bundle) -> None:
    class Interrupted(Watched):
        def update(self, *others: Any, **more: Any) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_engine(bundle.file(ONNX), rtx(), profile=PROFILE, progress=Interrupted())


@pytest.mark.filterwarnings("ignore:.*Timing cache operations:DeprecationWarning")
def test_timings_are_loaded_if_they_fit_and_saved_in_one_step(tmp_path: Path) -> None:
    """TensorRT for RTX has the same cache, though its builds put nothing in."""
    log = tensorrt_runtime.tensorrt_log("tensorrt-rtx")
    path = tmp_path / "caches" / "timing.cache"
    config = tensorrt_rtx.Builder(log).create_builder_config()
    save_timing_cache(config, path)
    assert not path.exists()  # there is nothing to save
    load_timing_cache(config, path)
    save_timing_cache(config, path)
    written = path.read_bytes()
    assert written and [path] == list(path.parent.iterdir())
    for content in (written, b"of another version"):
        path.write_bytes(content)
        config = tensorrt_rtx.Builder(log).create_builder_config()
        load_timing_cache(config, path)
        assert bytes(config.get_timing_cache().serialize()) == written


def test_tensorrt_for_rtx_is_given_no_cache(
    bundle: Bundle, tmp_path: Path, progress: Progress
) -> None:
    path = tmp_path / "timing.cache"
    build_engine(
        bundle.file(ONNX), rtx(), profile=PROFILE, progress=progress, timing_cache=path
    )
    assert not path.exists()
    assert engine_options.has_timing_cache("tensorrt")

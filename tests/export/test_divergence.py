"""The first node that diverges is found, named and drawn."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from rich.progress import Progress
from torch import Tensor, nn

from export.divergence import (
    BOUNDS,
    Divergence,
    as_stored,
    divergence_of,
    first_divergence,
    module_divergence,
)
from export.divergence.node_errors import draw
from export.divergence.tensors import groups, open_session
from export.graph import DeployedGraph
from export.onnx import float16_model, observe, quantised
from export.onnx.reading import module_of, precision_of
from isogon.bundle import ONNX, Bundle
from isogon.errors import CheckFailedError, UsageError
from isogon.runtimes import Pixels

FC1 = "student.backbone.model.blocks.3.mlp.fc1"


Named = Callable[[onnx.ModelProto, str, str], str]
Changed = Callable[
    [onnx.ModelProto, str, Callable[[np.ndarray], np.ndarray]], onnx.ModelProto
]


def noisy(weights: np.ndarray) -> np.ndarray:
    return weights + np.random.default_rng(0).normal(size=weights.shape) * weights.std()


@pytest.mark.parametrize(
    "plant",
    [noisy, lambda w: w * 1.5, lambda w: w[:, ::-1]],
    ids=["noise", "scale", "swapped channels"],
)
def test_a_perturbed_weight_is_found_at_its_node_and_module(
    vit: onnx.ModelProto,
    pixels: Pixels,
    plant: Callable[[np.ndarray], np.ndarray],
    node_of: Named,
    changed: Changed,
) -> None:
    name = node_of(vit, FC1, "MatMul")
    found = first_divergence(vit, changed(vit, name, plant), pixels)
    assert found.first is not None
    assert (found.first.name, found.first.module) == (name, FC1)
    assert found.first.begins_here
    assert found.first.input_error == 0
    assert found.largest_jump == found.first
    assert FC1 in str(found)
    assert "begins there" in str(found)
    assert "It fades" not in str(found)
    before = found.nodes[: found.first.depth]
    assert {node.error for node in before} == {0.0}
    assert found.unmatched == 0


def test_a_convolution_that_took_in_its_batch_norm_is_named_by_itself(
    resnet: onnx.ModelProto, pixels: Pixels, node_of: Named, changed: Changed
) -> None:
    conv = "student.backbone.model.layer2.0.conv1"
    name = node_of(resnet, conv, "Conv")
    found = first_divergence(resnet, changed(resnet, name, noisy), pixels)
    assert found.first is not None
    assert found.first.module == conv
    assert found.first.op_type == "Conv"
    assert found.first.cosine < 0.9


def test_every_layer_has_a_module_path(vit: onnx.ModelProto) -> None:
    modules = {module_of(node) for node in vit.graph.node}
    for block in range(6):
        for part in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"):
            assert f"student.backbone.model.blocks.{block}.{part}" in modules
    assert {"student.embedding", "score", ""} < modules


def test_a_nan_is_beyond_any_bound(
    vit: onnx.ModelProto, pixels: Pixels, node_of: Named, changed: Changed
) -> None:
    name = node_of(vit, FC1, "MatMul")

    def with_nan(weights: np.ndarray) -> np.ndarray:
        weights = weights.copy()
        weights[0, 0] = np.nan
        return weights

    found = first_divergence(vit, changed(vit, name, with_nan), pixels, bound=1e30)
    assert found.first is not None
    assert found.first.name == name
    assert math.isinf(found.first.error)
    assert math.isnan(found.first.cosine)
    again = Divergence.model_validate_json(found.model_dump_json())
    assert again.first is not None
    assert again.first.name == name


def test_equal_graphs_do_not_diverge(vit: onnx.ModelProto, pixels: Pixels) -> None:
    found = first_divergence(vit, vit, pixels)
    assert found.first is None
    assert not found.only_when_fused
    assert found.images == 5
    assert len(found.nodes) > 100
    assert {node.error for node in found.nodes} == {0.0}
    assert found.fused_error < 1e-5
    assert "No node differs among" in str(found)
    fused = found.model_copy(update={"fused_error": math.nan})
    assert fused.only_when_fused
    assert "when ONNX Runtime fuses nodes" in str(fused)


def test_an_accumulated_error_is_distinguished_from_a_new_one(
    vit: onnx.ModelProto, pixels: Pixels, changed: Changed
) -> None:
    """Every block adds a little error; the sum of several exceeds the bound."""
    candidate = vit
    for node in vit.graph.node:
        if node.op_type == "MatMul" and module_of(node).endswith(("proj", "fc2")):
            candidate = changed(candidate, node.name, lambda w: w + 0.05 * noisy(w))
    small = first_divergence(vit, candidate, pixels)
    stream = [n for n in small.nodes if n.op_type == "Add" and ".blocks." in n.module]
    gathered = max(stream, key=lambda node: node.error)
    found = first_divergence(vit, candidate, pixels, bound=0.99 * gathered.error)
    assert found.first is not None
    adders = [n for n in small.nodes if n.added > 0 and n.begins_here]
    assert len(adders) >= 6
    assert found.largest_jump in adders


def test_the_precision_is_read_from_the_graph(vit: onnx.ModelProto, pixels: Pixels) -> None:
    assert precision_of(vit) == "fp32"
    assert precision_of(float16_model(vit)) == "fp16"
    int8 = quantised(vit, observe(vit, pixels))
    assert precision_of(int8) == "int8"
    assert first_divergence(vit, int8, pixels).bound == BOUNDS["int8"]


def test_graphs_without_a_common_node_are_refused(
    vit: onnx.ModelProto, pixels: Pixels
) -> None:
    other = onnx.ModelProto()
    other.CopyFrom(vit)
    for node in other.graph.node:
        node.name = f"renamed_{node.name}"
    with pytest.raises(CheckFailedError, match="nothing was compared"):
        first_divergence(vit, other, pixels)
    with pytest.raises(UsageError, match="at least one image"):
        first_divergence(vit, vit, pixels[:0])


def test_nodes_without_counterpart_are_counted(
    vit: onnx.ModelProto, pixels: Pixels
) -> None:
    other = onnx.ModelProto()
    other.CopyFrom(vit)
    for node in other.graph.node[10:15]:
        node.name = ""
    assert first_divergence(vit, other, pixels).unmatched == 5


def test_tensors_are_held_in_groups(vit: onnx.ModelProto) -> None:
    names = [node.output[0] for node in vit.graph.node]
    assert [name for group in groups(vit, names, 2) for name in group] == names
    many = list(groups(vit, names, 2000))
    assert len(many) > 3
    assert [name for group in many for name in group] == names


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_plot_names_the_first_node(
    vit: onnx.ModelProto,
    pixels: Pixels,
    tmp_path: Path,
    ending: str,
    node_of: Named,
    changed: Changed,
) -> None:
    name = node_of(vit, FC1, "MatMul")
    found = first_divergence(vit, changed(vit, name, noisy), pixels)
    path = tmp_path / f"divergence.{ending}"
    draw(found, path)
    content = path.read_bytes()
    if ending == "png":
        assert content.startswith(b"\x89PNG")
        assert len(content) > 10_000
    else:
        assert FC1.encode() in content
    draw(first_divergence(vit, vit, pixels), path)
    broken = first_divergence(vit, changed(vit, name, lambda w: w * np.nan), pixels)
    draw(broken, path)


@pytest.mark.slow
def test_a_bundles_artifact_is_compared_with_a_fresh_export(
    bundle: Bundle, progress: Progress, tmp_path: Path, node_of: Named, changed: Changed
) -> None:
    honest = divergence_of(bundle, ONNX, progress)
    assert honest.first is None
    assert honest.images == 8
    model = onnx.load(bundle.file(ONNX))
    conv = "student.backbone.model.layer3.0.conv2"
    path = tmp_path / "refused.onnx"
    onnx.save(changed(model, node_of(model, conv, "Conv"), noisy), path)
    found = divergence_of(bundle, path, progress)
    assert found.first is not None
    assert found.first.module == conv
    (centre,) = found.around_first(0)
    assert centre == found.first
    assert [n.depth - centre.depth for n in found.around_first(3)] == list(range(-3, 4))
    with pytest.raises(UsageError, match="Compare the ONNX file"):
        divergence_of(bundle, "engines/sm90-trt11.4-fp16.engine", progress)
    with pytest.raises(UsageError, match=r"Artifacts in the bundle: onnx/model\.onnx"):
        divergence_of(bundle, "onnx/model.fp16.onnx", progress)
    with pytest.raises(UsageError, match="cannot be read as an ONNX file"):
        divergence_of(bundle, "evaluation.json", progress)
    other = onnx.load(bundle.file("onnx/model.onnx"))
    other.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 48
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(UsageError, match=r"48, 32, 3\).* expected the bundle's pixels"):
        divergence_of(bundle, tmp_path / "other.onnx", progress)
    (tmp_path / "no.onnx").write_bytes(b"no protobuf")
    with pytest.raises(UsageError, match="cannot be read as an ONNX file"):
        divergence_of(bundle, tmp_path / "no.onnx", progress)


def anonymous(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose nodes do not say where they come from."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in copy.graph.node:
        del node.metadata_props[:]
    return copy


class WrongWhenExported(nn.Module):
    """A module that is exported wrongly, as by an exporter with a faulty operator."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 1.5 if torch.compiler.is_exporting() else x


@pytest.mark.slow
def test_an_error_of_the_exporter_is_found_beside_torch(
    torch_vit: DeployedGraph,
    vit: onnx.ModelProto,
    pixels: Pixels,
    as_onnx: Callable[[DeployedGraph], onnx.ModelProto],
) -> None:
    honest = module_divergence(torch_vit, vit, pixels)
    assert honest.first is None
    assert len(honest.nodes) > 50
    assert max(node.error for node in honest.nodes) < 1e-5
    attention = torch_vit.student.backbone.model.blocks[3].attn
    attention.norm = WrongWhenExported()
    found = module_divergence(torch_vit, as_onnx(torch_vit), pixels)
    assert found.first is not None
    assert found.first.module == "student.backbone.model.blocks.3.attn.norm"
    assert found.first.begins_here
    assert "against eager torch" in str(found)
    with pytest.raises(CheckFailedError, match="from which torch module"):
        module_divergence(torch_vit, anonymous(vit), pixels)


def test_float16_is_rounded_where_it_is_stored() -> None:
    """A million between two convolutions in float16, which the CPU keeps in float32."""
    half, single, shape = TensorProto.FLOAT16, TensorProto.FLOAT, [1, 1, 1, 1]
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["x"], to=half),
            helper.make_node("Conv", ["x", "large"], ["y"]),
            helper.make_node("Relu", ["y"], ["r"]),
            helper.make_node("Conv", ["r", "small"], ["z"]),
            helper.make_node("Cast", ["z"], ["out"], to=single),
        ],
        "overflow",
        [helper.make_tensor_value_info("images", single, shape)],
        [helper.make_tensor_value_info("out", single, shape)],
        [
            helper.make_tensor("large", half, shape, [1000.0]),
            helper.make_tensor("small", half, shape, [0.001]),
        ],
    )
    opsets = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    given = {"images": np.full(shape, 1000, np.float32)}
    (hidden,) = open_session(model, fused=False).run(None, given)
    assert hidden.item() == pytest.approx(1000, rel=1e-3)
    (shown,) = open_session(as_stored(model), fused=False).run(None, given)
    assert np.isinf(shown.item())

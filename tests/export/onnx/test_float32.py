"""Float32 files have nothing of the exporter's own, so that other tools read them."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process

from export.onnx import save_model
from isogon.runtimes import OnnxRunner, Pixels

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("prepared", [False, True])
def test_onnx_runtimes_own_quantiser_takes_a_file(
    model: onnx.ModelProto, pixels: Pixels, tmp_path: Path, prepared: bool
) -> None:
    ours, theirs = tmp_path / "model.onnx", tmp_path / "dynamic.onnx"
    save_model(model, ours)
    if prepared:
        quant_pre_process(ours, tmp_path / "prepared.onnx")
    source = tmp_path / "prepared.onnx" if prepared else ours
    quantize_dynamic(source, theirs, weight_type=QuantType.QUInt8)
    assert {"DynamicQuantizeLinear"} <= {
        node.op_type for node in onnx.load(theirs).graph.node
    }
    expected, found = (OnnxRunner(file).run(pixels[:4]) for file in (ours, theirs))
    cosines = np.sum(expected.embeddings * found.embeddings, axis=1)
    assert cosines.min() > 0.95


def test_weights_have_their_shapes_once_and_no_note_quotes_a_file_of_ours(
    model: onnx.ModelProto,
) -> None:
    weights = {weight.name for weight in model.graph.initializer}
    assert weights.isdisjoint(value.name for value in model.graph.value_info)
    assert str(ROOT).encode() not in model.SerializeToString()
    assert any("backbone" in node.metadata_props[0].value for node in model.graph.node[:20])


def test_no_index_depends_on_the_batch(resnet: onnx.ModelProto) -> None:
    # OpenVINO loses a bias of the int8 file then: benchmarks/openvino_bias.py.
    assert "Range" not in {node.op_type for node in resnet.graph.node}

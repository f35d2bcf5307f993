"""How old an ONNX Runtime may be for a file: what its operators' version asks for."""

import onnx

from export.onnx.types import opset_of

# Release, its newest operators, its newest IR; from the table "ONNX Runtime compatibility"
# of its documentation.
_RELEASES = (
    ("1.14", 18, 8),
    ("1.15", 19, 9),
    ("1.17", 20, 9),
    ("1.18", 21, 10),
    ("1.21", 22, 10),
    ("1.23", 23, 11),
)


def least_ir(model: onnx.ModelProto) -> int:
    """Return the oldest version of the file format that holds the model's operators."""
    version: int = onnx.helper.find_min_ir_version_for(
        list(model.opset_import), ignore_unknown=True
    )
    return version


def oldest_onnxruntime(model: onnx.ModelProto) -> str | None:
    """Return the first release that opens the model, "1.17"; None: newer than we know."""
    for release, opset, ir in _RELEASES:
        if opset_of(model) <= opset and model.ir_version <= ir:
            return release
    return None

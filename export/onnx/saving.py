"""Save ONNX models, with the metadata that make a file usable without its bundle."""

from pathlib import Path

import onnx

from export.onnx.reading import opset_of
from isogon.bundle import Metadata, tensors_name
from isogon.bundle.stage_writer import fsync

# The size limit of a protobuf file, minus room for nodes and names.
LARGEST = onnx.checker.MAXIMUM_PROTOBUF - 2**26
OLDEST_KEY = "isogon.onnxruntime"  # the oldest ONNX Runtime that opens the file
# Release, its newest opset, its newest IR version; from the table "ONNX Runtime
# compatibility" of its documentation.
_RELEASES = (
    ("1.14", 18, 8),
    ("1.15", 19, 9),
    ("1.17", 20, 9),
    ("1.18", 21, 10),
    ("1.21", 22, 10),
    ("1.23", 23, 11),
)


def save_model(model: onnx.ModelProto, path: Path, *, largest: int | None = None) -> None:
    """Write `model` to `path`: one file, unless its tensors exceed 2 GB.

    Larger tensors go to a file beside it: the same name with `.data` appended. Existing
    files are replaced. `model.ir_version` becomes the oldest that has the model's
    operators; nothing else in the model changes.
    """
    model.ir_version = _least_ir(model)
    tensors = path.with_name(tensors_name(path.name))
    tensors.unlink(missing_ok=True)
    held = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    if held <= (LARGEST if largest is None else largest):
        _replace(path, model)
        return
    split = onnx.ModelProto()
    split.CopyFrom(model)
    helper = onnx.external_data_helper
    helper.convert_model_to_external_data(split, location=tensors.name)
    _replace(path, helper.write_external_data_tensors(split, str(path.parent)))
    fsync(tensors)


def stamp(path: Path, metadata: Metadata) -> None:
    """Write `metadata` into the ONNX file at `path`; older metadata are replaced.

    The oldest ONNX Runtime that opens the file is written too. The file is replaced in
    one step, and only its metadata change. The same file and metadata give the same
    bytes. Tensors in a separate file stay there.
    """
    model = onnx.load_model(path, load_external_data=False)
    set_metadata(model, metadata)
    held = {e.key: e.value for e in model.metadata_props if e.key != OLDEST_KEY}
    oldest = _oldest_onnxruntime(model)
    onnx.helper.set_model_props(
        model, held if oldest is None else held | {OLDEST_KEY: oldest}
    )
    _replace(path, model)


def set_metadata(model: onnx.ModelProto, metadata: Metadata) -> None:
    """Put `metadata` into a model in memory; older metadata are replaced.

    Properties of other names stay, in their order and before ours.
    """
    ours = metadata.properties()
    kept = {e.key: e.value for e in model.metadata_props if e.key not in ours}
    onnx.helper.set_model_props(model, kept | ours)


def _oldest_onnxruntime(model: onnx.ModelProto) -> str | None:
    """Return the first release that opens the model, "1.17"; None: newer than the table."""
    for release, opset, ir in _RELEASES:
        if opset_of(model) <= opset and model.ir_version <= ir:
            return release
    return None


def _least_ir(model: onnx.ModelProto) -> int:
    """Return the oldest IR version that has the model's operators."""
    version: int = onnx.helper.find_min_ir_version_for(
        list(model.opset_import), ignore_unknown=True
    )
    return version


def _replace(path: Path, model: onnx.ModelProto) -> None:
    pending = path.with_name(f"{path.name}.stamped")
    pending.write_bytes(model.SerializeToString(deterministic=True))
    fsync(pending)
    pending.replace(path)

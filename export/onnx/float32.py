"""Float32: export the graph with torch's dynamo exporter to a file that takes uint8."""

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch
from torch.export import Dim

from export.graph import DeployedGraph
from export.onnx.reading import SCOPES
from export.onnx.saving import save_model
from export.plan import OPSET
from isogon.images import Preprocessing
from isogon.progress import Progress
from isogon.runtimes import PREPROCESSING_KEY


def float32_model(
    graph: DeployedGraph,
    preprocessing: Preprocessing,
    progress: Progress,
    description: str = "Exporting to ONNX",
    *,
    opset: int = OPSET,
) -> onnx.ModelProto:
    """Return `graph` as a model in memory; see `save_onnx`."""
    task = progress.add_task(description, total=None)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        save_onnx(graph, preprocessing, path, opset=opset)
        model = onnx.load(path)
    progress.update(task, total=1, completed=1)
    return model


def save_onnx(
    graph: DeployedGraph, preprocessing: Preprocessing, path: Path, *, opset: int = OPSET
) -> None:
    """Write `graph` to `path`: `images` uint8 [b, h, w, 3] -> `embedding`, `ood_score`.

    The batch size is dynamic; normalisation and detector are in the graph. The metadata
    holds the preprocessing, so the file's hash covers it too.
    """
    shape = (2, preprocessing.height, preprocessing.width, 3)
    example = torch.zeros(shape, dtype=torch.uint8)
    with _quiet():
        program = torch.onnx.export(
            graph.eval(),
            (example,),
            dynamo=True,
            input_names=["images"],
            output_names=["embedding", "ood_score"],
            dynamic_shapes={"images": {0: Dim("batch")}},
            opset_version=opset,
            verbose=False,
        )
    assert program is not None  # it is None only without dynamo
    program.model.metadata_props[PREPROCESSING_KEY] = preprocessing.model_dump_json()
    save_model(_bare(program.model_proto), path)


def _bare(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model, changed in place, without the exporter's notes.

    Notes on nodes quote our source with its path on this machine. The weights' shapes are
    stored twice; tools such as ONNX Runtime's `quantize_dynamic` transpose a weight and
    update one of them, and shape inference then fails.
    """
    graph = model.graph
    weights = {weight.name for weight in graph.initializer}
    values = [value for value in graph.value_info if value.name not in weights]
    del graph.value_info[:], graph.metadata_props[:]
    graph.value_info.extend(values)
    for noted in (*graph.node, *graph.value_info, *graph.input, *graph.output):
        kept = [note for note in noted.metadata_props if note.key == SCOPES]
        del noted.metadata_props[:]
        noted.metadata_props.extend(kept)
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress lines off stdout, which is for results."""
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):
        yield

"""ONNX through torch's dynamo exporter: one file that takes uint8 pixels."""

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch
from torch.export import Dim

from export.graph import Graph
from export.onnx.metadata import save_model
from export.onnx.reading import SCOPES
from isogon.images import Preprocessing
from isogon.progress import Progress
from isogon.runtimes import PREPROCESSING_KEY

OPSET = 20  # of ONNX's operators


def save_onnx(
    graph: Graph, preprocessing: Preprocessing, path: Path, *, opset: int = OPSET
) -> None:
    """Write `graph` to `path`: `images` uint8 [b, h, w, 3] -> `embedding`, `ood_score`.

    The batch is dynamic, normalisation and detector are inside. The metadata holds the
    preprocessing, so that the file's hash vouches for it too.
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
    assert program is not None  # only without dynamo
    program.model.metadata_props[PREPROCESSING_KEY] = preprocessing.model_dump_json()
    save_model(_bare(program.model_proto), path)


def _bare(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model without what its exporter noted of itself; it is changed.

    Notes on nodes quote our source by its place on this machine. The shapes of weights
    are with the weights: said once more, they contradict them after tools such as ONNX
    Runtime's `quantize_dynamic` have transposed one, and shape inference then fails.
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


def float32_model(
    graph: Graph,
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


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress lines off stdout, which is for results."""
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):
        yield

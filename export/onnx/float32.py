"""ONNX through torch's dynamo exporter: one file that takes uint8 pixels."""

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch
from rich.progress import Progress
from torch.export import Dim

from bundle import Preprocessing
from bundle.runners import PREPROCESSING_KEY
from export.graph import Graph

OPSET = 20


def save_onnx(graph: Graph, preprocessing: Preprocessing, path: Path) -> None:
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
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None  # only without dynamo
    program.model.metadata_props[PREPROCESSING_KEY] = preprocessing.model_dump_json()
    program.save(path)  # one file, unless it is larger than 2 GB


def float32_model(
    graph: Graph,
    preprocessing: Preprocessing,
    progress: Progress,
    description: str = "Exporting to ONNX",
) -> onnx.ModelProto:
    """Return `graph` as a model in memory; see `save_onnx`."""
    task = progress.add_task(description, total=None)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        save_onnx(graph, preprocessing, path)
        model = onnx.load(path)
    progress.update(task, total=1, completed=1)
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress lines off stdout, which is for results."""
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):
        yield

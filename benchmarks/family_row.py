"""One family's row of `families.py`: a student, its artifacts, and what became of them."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from photographs import photographs
from precisions import PRECISIONS, onnx_name
from pydantic import BaseModel
from rich.progress import Progress
from students import deployed

from export import ExportPlan
from export.engines import built_engine
from export.gate import Gate
from export.lowering import lowered
from export.onnx import Target, save_onnx
from isogon.networks import preprocessing_of
from isogon.parity import ParityReport
from isogon.runtimes import Precision

CELLS = (*PRECISIONS, *(f"RTX {precision}" for precision in PRECISIONS))
BATCH_SIZES = (1, 7, 16)
COMPARED = 64  # images
WIDTH = 128  # of the embedding: as no backbone's, so that each gets a layer
PLAN = ExportPlan(engine="tensorrt-rtx", build_only=True)

_QUIET = Progress(disable=True)


class CellResult(BaseModel):
    """One artifact of one family: did it pass, with which figures, or why not."""

    ok: bool
    seconds: float = 0.0  # conversion, repair and parity included
    built: float = 0.0  # seconds in which TensorRT built the engine
    mebibytes: float = 0.0
    report: ParityReport | None = None
    unrepaired: ParityReport | None = None  # where the repair had to work
    kept: int = 0  # nodes that stayed in float32 so that the rest passes
    nodes: int = 0  # nodes that were converted before
    reason: str = ""


class Row(BaseModel):
    """One family, as far as its process has come."""

    family: str
    model: str
    pixels: int
    weights: str
    parameters: int = 0
    likeness: float = 0.0  # mean cosine of different images, by the reference
    running: str = ""  # the cell that was begun; a crash is that cell's
    cells: dict[str, CellResult] = {}


class RowRun:
    """The work of one row: a student, its files in a folder, and its cells."""

    def __init__(self, row: Row, checkpoint: str | None, folder: Path, source: str | None):
        self._folder = folder
        preprocessing = preprocessing_of(row.model, row.pixels, 1.0)
        photos = photographs(source, preprocessing, folder.parent, compared=COMPARED)
        self._deployed = deployed(row.model, row.pixels, checkpoint, photos, width=WIDTH)
        gate = Gate.of(self._deployed, PLAN, _QUIET)
        self._gate = replace(gate, sizes=BATCH_SIZES, onnx_sizes=BATCH_SIZES)
        cosines = gate.expected.embeddings @ gate.expected.embeddings.T
        row.likeness = float(cosines[~np.eye(len(cosines), dtype=bool)].mean())
        values = self._deployed.graph.student.parameters()
        row.parameters = sum(value.numel() for value in values)

    def cell(self, name: str) -> CellResult:
        """Make one artifact and judge it; whatever goes wrong is the result."""
        start = time.perf_counter()
        work: dict[str, Callable[[], CellResult]] = {
            "fp32": self._float32,
            "fp16": partial(self._lowered, "fp16"),
            "int8": partial(self._lowered, "int8"),
            **{f"RTX {each}": partial(self._engine, each) for each in PRECISIONS},
        }
        try:
            found = work[name]()
        except Exception as error:  # torch's, ONNX's, TensorRT's: all are findings
            found = CellResult(ok=False, reason=f"{type(error).__name__}: {error}")
        return found.model_copy(update={"seconds": time.perf_counter() - start})

    def _export(self) -> Path:
        path = self._folder / onnx_name("fp32")
        if not path.exists():
            save_onnx(self._deployed.graph, self._deployed.preprocessing, path)
        return path

    def _float32(self) -> CellResult:
        path = self._export()
        run = self._gate.try_model(onnx.load(path), path, path.name, "fp32")
        return _judged(self._gate.judge(run), path)

    def _lowered(self, precision: Precision, target: Target = "onnxruntime") -> CellResult:
        """Convert, gate and repair, as the exporter does."""
        float32 = onnx.load(self._export())
        made = lowered(
            self._deployed,
            float32,
            precision,
            self._folder,
            gate=self._gate,
            plan=PLAN,
            progress=_QUIET,
            target=target,
        )
        found = _judged(made.report, made.file)
        if made.repair is None:
            return found
        spoilt = self._folder / "unrepaired.onnx"
        run = self._gate.try_model(made.repair.unrepaired, spoilt, spoilt.name, precision)
        return found.model_copy(
            update={
                "unrepaired": self._gate.judge(run),
                "kept": len(made.repair.keep),
                "nodes": made.repair.converted,
                "reason": "" if found.ok else f"{found.reason}. {made.repair.reason}",
            }
        )

    def _engine(self, precision: Precision) -> CellResult:
        """Build an engine; int8's comes from a file of its own, which is judged first."""
        path = self._folder / onnx_name(precision, "tensorrt")
        found = CellResult(ok=True)
        if precision == "int8":
            found = self._lowered("int8", target="tensorrt")
        if not path.exists():
            return CellResult(ok=False, reason="there is no ONNX file to build it from")
        start = time.perf_counter()
        engine = built_engine(
            path,
            precision,
            gate=self._gate,
            plan=PLAN,
            timing_cache=self._folder / "timings",
            progress=_QUIET,
        )
        size = engine.file.stat().st_size / 2**20
        engine.file.unlink()
        return found.model_copy(
            update={"built": time.perf_counter() - start, "mebibytes": size}
        )


def _judged(report: ParityReport, path: Path) -> CellResult:
    return CellResult(
        ok=bool(report),
        mebibytes=path.stat().st_size / 2**20,
        report=report,
        reason="; ".join(report.failures),
    )

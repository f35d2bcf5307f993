"""One family's row of `families.py`: a student, its artifacts, and what became of them."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
import torch
from lively import centred, lively
from photographs import photographs
from precisions import PRECISIONS
from pydantic import BaseModel
from rich.progress import Progress

from backbones import Student, preprocessing_of, timm_model
from bundle import ParityReport, Precision
from bundle.detectors import Knn
from distill.weights import pretrained
from export import ExportPlan
from export.deployed import Deployed
from export.engines import built_engine
from export.gate import Gate
from export.graph import Graph
from export.lowering import lowered
from export.onnx import Target, save_onnx

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
        self._preprocessing = preprocessing_of(row.model, row.pixels, 1.0)
        photos = photographs(source, self._preprocessing, folder.parent, compared=COMPARED)
        bank = photos.bank
        size = (row.pixels, row.pixels)
        torch.manual_seed(0)
        if checkpoint is None:
            model = timm_model(row.model, size=size)
            student = Student.new(model, self._preprocessing, width=WIDTH)
            lively(student, bank[:48], 0)
        else:
            model = pretrained(row.model, checkpoint, size=size).model
            student = Student.new(model, self._preprocessing, width=WIDTH)
            centred(student, bank[:48])
        with torch.inference_mode():
            familiar = student.embed(torch.from_numpy(bank)).numpy()
        self._deployed = Deployed(
            graph=Graph(student, Knn.fit(familiar, k=5)).eval(),
            fingerprint=sha256(f"{row.model} {row.pixels}".encode()).hexdigest(),
            preprocessing=self._preprocessing,
            images=photos.images,
            samples=lambda: bank,
            reduction=None,
        )
        gate = Gate.of(self._deployed, PLAN, _QUIET)
        self._gate = replace(gate, sizes=BATCH_SIZES)
        cosines = gate.expected.embeddings @ gate.expected.embeddings.T
        row.likeness = float(cosines[~np.eye(len(cosines), dtype=bool)].mean())
        row.parameters = sum(value.numel() for value in student.parameters())

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
        path = self._folder / "model.fp32.onnx"
        if not path.exists():
            save_onnx(self._deployed.graph, self._preprocessing, path)
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
        found, path = CellResult(ok=True), self._folder / f"model.{precision}.onnx"
        if precision == "int8":
            found = self._lowered("int8", target="tensorrt")
            path = self._folder / "model.int8.tensorrt.onnx"
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

"""One family's row of `families.py`: a student, its artifacts, and what became of them."""

import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
import torch
from lively import centred, lively
from photographs import photographs
from pydantic import BaseModel
from rich.progress import Progress

from backbones import Student, preprocessing_of, timm_model
from bundle import BatchProfile, OnnxRunner
from bundle.detectors import Knn
from bundle.parity import TOLERANCES, Claim, ParityReport, Precision
from distill.weights import pretrained
from export.graph import Graph, TorchRunner
from export.onnx import save_onnx
from export.onnx.float16 import float16_model
from export.onnx.int8 import int8_model
from export.parity import measure
from export.repair import repaired
from export.tensorrt import EngineOptions, build_engine

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
CELLS = (*PRECISIONS, *(f"RTX {precision}" for precision in PRECISIONS))
BATCH_SIZES = (1, 7, 16)
COMPARED = 64  # images
RANKED = 8  # of the bank, by which the repair ranks nodes
WIDTH = 128  # of the embedding: as no backbone's, so that each gets a layer

_QUIET = Progress(disable=True)


class CellResult(BaseModel):
    """One artifact of one family: did it pass, with which figures, or why not."""

    ok: bool
    seconds: float
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
        self.row = row
        self._folder = folder
        size = (row.pixels, row.pixels)
        self._preprocessing = preprocessing_of(row.model, row.pixels, 1.0)
        self._photos = photographs(
            source, self._preprocessing, folder.parent, compared=COMPARED
        )
        bank = self._photos.bank
        torch.manual_seed(0)
        if checkpoint is None:
            model = timm_model(row.model, size=size)
            student = Student.new(model, self._preprocessing, width=WIDTH)
            lively(student, bank[:48], 0)
        else:
            model = pretrained(row.model, checkpoint, size=size).model
            student = Student.new(model, self._preprocessing, width=WIDTH)
            centred(student, bank[:48])
        row.parameters = sum(value.numel() for value in student.parameters())
        with torch.inference_mode():
            familiar = student.embed(torch.from_numpy(bank)).numpy()
        self._graph = Graph(student, Knn.fit(familiar, k=5)).eval()
        self._reference = TorchRunner(self._graph)
        self._expected = self._reference.run_all(self._photos.images.pixels, 16)
        cosines = self._expected.embeddings @ self._expected.embeddings.T
        row.likeness = float(cosines[~np.eye(len(cosines), dtype=bool)].mean())

    def cell(self, name: str) -> CellResult:
        """Make one artifact and judge it; whatever goes wrong is the result."""
        start = time.perf_counter()
        work: dict[str, Callable[[], CellResult]] = {
            "fp32": self._float32,
            "fp16": lambda: self._converted("fp16", float16_model),
            "int8": lambda: self._converted(
                "int8",
                lambda model, keep: int8_model(model, self._photos.bank, keep=keep),
            ),
            **{
                f"RTX {precision}": lambda precision=precision: self._engine(precision)
                for precision in PRECISIONS
            },
        }
        try:
            found = work[name]()
        except Exception as error:  # torch's, ONNX's, TensorRT's: all are findings
            found = CellResult(
                ok=False, seconds=0.0, reason=f"{type(error).__name__}: {error}"
            )
        return found.model_copy(update={"seconds": time.perf_counter() - start})

    def _path(self, precision: str) -> Path:
        return self._folder / f"model.{precision}.onnx"

    def _float32(self) -> CellResult:
        self._export()
        return self._result(self._judged("fp32"), "fp32")

    def _export(self) -> onnx.ModelProto:
        path = self._path("fp32")
        if not path.exists():
            save_onnx(self._graph, self._preprocessing, path)
        return onnx.load(path)

    def _converted(
        self, precision: Precision, converted: Callable[..., onnx.ModelProto]
    ) -> CellResult:
        reports: list[ParityReport] = []

        def accepted(model: onnx.ModelProto) -> ParityReport:
            onnx.save(model, self._path(precision))
            reports.append(self._judged(precision))
            return reports[-1]

        model = self._export()
        repair = repaired(
            lambda keep: converted(model, keep=keep),
            accepted,
            model,
            self._photos.bank[:RANKED],
            progress=_QUIET,
        )
        onnx.save(repair.model, self._path(precision))
        found = self._result(self._judged(precision), precision)
        if len(reports) == 1:
            return found
        return found.model_copy(
            update={
                "unrepaired": reports[0],
                "kept": len(repair.kept),
                "nodes": repair.converted,
                "reason": "" if repair else f"{found.reason}. {repair.reason}",
            }
        )

    def _judged(self, precision: Precision) -> ParityReport:
        path = self._path(precision)
        claim = Claim(
            artifact=path.name,
            sha256=sha256(path.read_bytes()).hexdigest(),
            precision=precision,
            reference=self._reference.name,
        )
        run = measure(
            self._expected,
            OnnxRunner(path, threads=torch.get_num_threads(), provider="cpu"),
            self._photos.images,
            _QUIET,
            BATCH_SIZES,
            claim=claim,
        )
        return run.judge(TOLERANCES[precision])

    def _result(self, report: ParityReport, precision: str) -> CellResult:
        return CellResult(
            ok=bool(report),
            seconds=0.0,
            mebibytes=self._path(precision).stat().st_size / 2**20,
            report=report,
            reason="; ".join(report.failures),
        )

    def _engine(self, precision: Precision) -> CellResult:
        path = self._path(precision)
        if not path.exists():
            return CellResult(
                ok=False, seconds=0.0, reason="there is no ONNX file to build it from"
            )
        engine = build_engine(
            path,
            EngineOptions(flavour="tensorrt-rtx", precision=precision),
            profile=BatchProfile(),
            progress=_QUIET,
        )
        return CellResult(ok=True, seconds=0.0, mebibytes=len(engine) / 2**20)

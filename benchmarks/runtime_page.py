"""The tables of `runtime.py`: ratios, throughputs, and what did not run."""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass

REFERENCE, FLOAT32 = "torch eager", "ONNX fp32"
SAME = 0.98  # cosine


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """What one column did at one batch size: a figure, or the reason why there is none."""

    student: str
    threads: int
    batch: int
    column: str
    milliseconds: tuple[float, ...] = ()  # per image, by round
    cosine: float = math.nan  # with eager torch's embeddings, the least
    reason: str = ""


Table = dict[tuple[int, int, str], Cell]
Entry = Callable[[Table, int, int, str], str]


def report(cells: list[Cell]) -> str:
    """Return one table per student: ratios to eager torch, then throughputs."""
    text = []
    names = list(dict.fromkeys(cell.column for cell in cells))
    for student in dict.fromkeys(cell.student for cell in cells):
        rows = [cell for cell in cells if cell.student == student]
        settings = list(dict.fromkeys((cell.threads, cell.batch) for cell in rows))
        table = {(cell.threads, cell.batch, cell.column): cell for cell in rows}
        heads = "".join(f" {t} thr, b {b} |" for t, b in settings)
        for title, entry in (
            ("times the throughput of eager torch", ratio_to(REFERENCE)),
            ("times the throughput of ONNX Runtime in float32", ratio_to(FLOAT32)),
            ("images per second", throughput),
        ):
            text.append(f"\n## {student}: {title}\n\n| |{heads}")
            text.append("|---" * (len(settings) + 1) + "|")
            for name in names:
                found = [entry(table, t, b, name) for t, b in settings]
                if any(value != "" for value in found):
                    text.append(f"| {name} | " + " | ".join(found) + " |")
    text += ["", *notes(cells)]
    return "\n".join(text)


def ratio_to(other: str) -> Entry:
    """Return the function that fills a table with ratios to the column `other`."""

    def entry(table: Table, threads: int, batch: int, name: str) -> str:
        cell = table.get((threads, batch, name))
        if cell is None:
            return ""
        times = cell.milliseconds
        base = table[threads, batch, other].milliseconds
        if not times or not base:
            return "-"
        ratio = statistics.median(b / t for t, b in zip(times, base, strict=True))
        return f"{ratio:.2f}{'' if cell.cosine >= SAME else ' (!)'}"

    return entry


def throughput(table: Table, threads: int, batch: int, name: str) -> str:
    """Fill a table with the images per second of the median round."""
    cell = table.get((threads, batch, name))
    if cell is None:
        return ""
    if not cell.milliseconds:
        return "-"
    return f"{1000 / statistics.median(cell.milliseconds):.0f}"


def notes(cells: list[Cell]) -> list[str]:
    """Return a line for each column that did not run, or gave other embeddings."""
    found = {}
    for cell in cells:
        where = f"{cell.column}, {cell.student}"
        if cell.reason:
            found[where] = f"* - {where}: {cell.reason}"
        elif not cell.cosine >= SAME:
            found[where] = f"* (!) {where}: cosine with eager torch {cell.cosine:.4f}"
    least = min((cell.cosine for cell in cells if not cell.reason), default=math.nan)
    return [*found.values(), f"\nLeast cosine with eager torch: {least:.6f}."]

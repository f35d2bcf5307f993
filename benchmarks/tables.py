"""Write the tables of README and docs from the results: `python benchmarks/tables.py`.

A table is between `<!-- table: NAME -->` and `<!-- /table -->`; a test fails if it differs
from the results.
"""

import re
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
DEFAULTS = ROOT / "benchmarks/results/defaults-cpu.md"
CHAIN = ROOT / "benchmarks/results/chain-cpu.md"
RUNTIMES = ROOT / "benchmarks/results/runtime-cpu.md"
LOADS = [f"{threads} thr, b {batch}" for threads in (1, 2) for batch in (1, 8, 32)]
PAGES = (ROOT / "README.md", ROOT / "docs/concepts/distilling.md")
_MARKED = re.compile(r"<!-- table: (\w+) -->\n.*?<!-- /table -->", re.DOTALL)
_SETS = {
    "tiny-64": "Tiny ImageNet (14,000)",
    "cifar-64": "CIFAR-10 (8,000)",
    "fashion-64": "Fashion-MNIST (8,000)",
    "textures-64": "textures (280)",
}
_FIGURES = ("distortion ↓", "overlap@10 ↑", "kNN ↑", "near AUROC ↑", "far AUROC ↑")
_DEPLOYED = ("MB", "ms", *_FIGURES, "false alarms (0.05 asked)")
# The stations of the chain that the front page shows, and what it calls them.
_STATIONS = {
    "teacher": "teacher",
    "undistilled": "the small model, undistilled",
    "onnx/model.onnx": "**the student**, in ONNX",
    "onnx/model.int8.onnx": "**the student**, in int8",
}


def measured(
    page: Path, name: str, figures: Sequence[str], *, part: str | None = None
) -> list[list[str]]:
    """Return the rows of a set in a page of results: what, then its figures.

    Args:
        page: of benchmarks/results.
        name: the heading of the set.
        figures: the headings of the columns.
        part: the lower heading of the table, if the set has several.
    """
    _, _, section = page.read_text(encoding="utf-8").partition(f"\n## {name}\n")
    section = section.split("\n## ")[0]
    if part is not None:
        section = section.partition(f"\n### {part}\n")[2].split("\n### ")[0]
    lines = section.splitlines()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines
        if line.startswith("|")
    ]
    header, _, *found = rows
    columns = [header.index(figure) for figure in figures]
    return [[row[0], *(row[column] for column in columns)] for row in found]


def front_table() -> str:
    """Return what the chain makes of Tiny ImageNet, from the teacher to int8."""
    lines = [f"| | {' | '.join(_DEPLOYED)} |", f"|---|{'---|' * len(_DEPLOYED)}"]
    for what, *figures in measured(CHAIN, "tiny-64", _DEPLOYED):
        if what in _STATIONS:
            lines.append(f"| {_STATIONS[what]} | {' | '.join(figures)} |")
    return "\n".join(lines)


def defaults_table() -> str:
    """Return what distilling is worth on every set that was measured."""
    lines = [
        f"| set (training images) | | {' | '.join(_FIGURES)} |",
        f"|---|---|{'---|' * len(_FIGURES)}",
    ]
    for name, title in _SETS.items():
        for number, (what, *figures) in enumerate(measured(DEFAULTS, name, _FIGURES)):
            shown = "**student**" if what == "student" else what
            first = title if number == 0 else ""
            lines.append(f"| {first} | {shown} | {' | '.join(figures)} |")
    return "\n".join(lines)


def speeds(section: str, row: str) -> dict[str, list[float]]:
    """Return how many times as fast a row of the runtimes' page is, by student.

    Args:
        section: what follows the student in the heading, such as "times the throughput of
            eager torch".
        row: such as "ONNX int8".
    """
    headings = re.findall(r"^## (.+): (.+)$", RUNTIMES.read_text("utf-8"), re.MULTILINE)
    return {
        student: [
            float(cell)
            for what, *cells in measured(RUNTIMES, f"{student}: {said}", LOADS)
            for cell in cells
            if what == row
        ]
        for student, said in headings
        if said == section
    }


_TABLES = {"front": front_table, "defaults": defaults_table}


def with_tables(page: str) -> str:
    """Return a page with its tables rewritten from the results."""

    def written(match: re.Match[str]) -> str:
        return f"<!-- table: {match[1]} -->\n{_TABLES[match[1]]()}\n<!-- /table -->"

    return _MARKED.sub(written, page)


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(with_tables(path.read_text(encoding="utf-8")), encoding="utf-8")

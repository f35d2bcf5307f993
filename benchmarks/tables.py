"""Write the tables of README and docs from the results: `python benchmarks/tables.py`.

A table is between `<!-- table: NAME -->` and `<!-- /table -->`; a test fails if it differs
from the results.
"""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
DEFAULTS = ROOT / "benchmarks/results/defaults-cpu.md"
PAGES = (ROOT / "README.md", ROOT / "docs/concepts/distilling.md")
_MARKED = re.compile(r"<!-- table: (\w+) -->\n.*?<!-- /table -->", re.DOTALL)
_SETS = {
    "tiny-64": "Tiny ImageNet (14,000)",
    "cifar-64": "CIFAR-10 (8,000)",
    "fashion-64": "Fashion-MNIST (8,000)",
    "textures-64": "textures (280)",
}
_FIGURES = ("distortion ↓", "overlap@10 ↑", "kNN ↑", "near AUROC ↑", "far AUROC ↑")


def measured(page: str, name: str) -> list[list[str]]:
    """Return the rows of a set in a page of `defaults.py`: what, then its figures."""
    _, _, section = page.partition(f"\n## {name}\n")
    lines = section.split("\n## ")[0].splitlines()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines
        if line.startswith("|")
    ]
    header, _, *found = rows
    columns = [header.index(figure) for figure in _FIGURES]
    return [[row[0], *(row[column] for column in columns)] for row in found]


def front_table() -> str:
    """Return the table of figures on Tiny ImageNet."""
    lines = [f"| | {' | '.join(_FIGURES)} |", f"|---|{'---|' * len(_FIGURES)}"]
    for what, *figures in measured(DEFAULTS.read_text(encoding="utf-8"), "tiny-64"):
        shown = "**student**" if what == "student" else what
        lines.append(f"| {shown} | {' | '.join(figures)} |")
    return "\n".join(lines)


def defaults_table() -> str:
    """Return the table of figures on every set that was measured."""
    page = DEFAULTS.read_text(encoding="utf-8")
    lines = [
        f"| set (training images) | | {' | '.join(_FIGURES)} |",
        f"|---|---|{'---|' * len(_FIGURES)}",
    ]
    for name, title in _SETS.items():
        for number, (what, *figures) in enumerate(measured(page, name)):
            shown = "**student**" if what == "student" else what
            first = title if number == 0 else ""
            lines.append(f"| {first} | {shown} | {' | '.join(figures)} |")
    return "\n".join(lines)


_TABLES = {"front": front_table, "defaults": defaults_table}


def with_tables(page: str) -> str:
    """Return a page with its tables rewritten from the results."""

    def written(match: re.Match[str]) -> str:
        return f"<!-- table: {match[1]} -->\n{_TABLES[match[1]]()}\n<!-- /table -->"

    return _MARKED.sub(written, page)


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(with_tables(path.read_text(encoding="utf-8")), encoding="utf-8")

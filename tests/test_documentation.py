"""README and docs are correct: their code runs, and their links have targets.

A block of code is run, unless a comment above it says `<!-- not run: REASON -->`. Python
runs in `make test`; shell, and Python below `<!-- slow -->`, in `make slow`. Blocks of a
page share a folder with images and a bundle, and are run in their order.
"""

import ast
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
from pydantic import BaseModel

from distill.recipe import Recipe
from distill.recipe.keys import _sections
from isogon.bundle import Bundle
from isogon.cli.main import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WRITTEN = [
    page
    for page in (
        *PAGES,
        ROOT / "CHANGELOG.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "SECURITY.md",
        ROOT / "deploy/README.md",
        ROOT / "isogon/bundle/README.md",
        ROOT / "recipes/README.md",
        *sorted((ROOT / "benchmarks/results").glob("*.md")),
    )
    if page.exists()
]
BLOCK = re.compile(r"((?:^<!-- .*? -->\n)*)^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Their blocks want machines, clients and clusters: they are run, as far as they can be,
# by the tests of their subject. Commands and options in them are checked here.
RUN_ELSEWHERE = {
    ROOT / "docs" / f"{name}.md"
    for name in (
        "deployed",
        "int8",
        "others-hands",
        "reliability",
        "runtimes",
        "serving",
        "several-machines",
    )
}
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """A block of code in a page."""

    page: Path
    number: int
    language: str
    text: str
    marks: str

    @property
    def is_run(self) -> bool:
        return self.page not in RUN_ELSEWHERE and "<!-- not run: " not in self.marks

    @property
    def is_slow(self) -> bool:
        return self.language == "bash" or "<!-- slow -->" in self.marks

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}-{self.number}"


def blocks_of(page: Path) -> list[Block]:
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [
        Block(page=page, number=number, language=language, text=text, marks=marks)
        for number, (marks, language, text) in enumerate(found)
    ]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


@pytest.fixture
def world(
    digits: Path,
    photographs: Path,
    exported: Path,
    embedded: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A folder with the files that the pages mention."""
    shutil.copytree(digits, tmp_path / "photos")
    shutil.copytree(photographs, tmp_path / "others")
    shutil.copytree(photographs, tmp_path / "quickstart-images/unfamiliar")
    familiar = tmp_path / "quickstart-images/familiar/1"
    familiar.mkdir(parents=True)
    shutil.copy(digits / "0/000.png", familiar / "0615.png")
    for name in ("my", "quickstart"):
        shutil.copytree(exported, tmp_path / f"{name}.isogon")
    shutil.copy(embedded, tmp_path / "embeddings.parquet")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_readme_is_a_screen_and_a_half() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 150
    assert len(text.encode()) < 8 * 1024


def test_every_block_says_its_language_and_why_it_is_not_run() -> None:
    for block in BLOCKS:
        if block.page in RUN_ELSEWHERE:
            continue
        assert block.language in {"", "bash", "python", "text", "toml"}, block
        if not block.is_run:
            assert re.search(r"<!-- not run: .{10,} -->", block.marks), block


@pytest.mark.parametrize(
    "block",
    [one for one in BLOCKS if one.language == "python" and one.is_run and not one.is_slow],
    ids=str,
)
def test_python_in_the_pages_runs(
    block: Block, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exec(compile(block.text, str(block), "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out


@pytest.mark.parametrize(
    "block", [one for one in BLOCKS if one.language == "python"], ids=str
)
def test_python_in_the_pages_is_python(block: Block) -> None:
    ast.parse(block.text)


def commands_in(text: str) -> list[list[str]]:
    """Return the words behind each `isogon`, up to a redirection, an `&` or a comment."""
    lines = re.findall(r"(?:^|\s)isogon ([a-z].*)", text.replace("\\\n", " "))
    return [shlex.split(re.split(r"\s[>|&;#]", line)[0]) for line in lines]


@pytest.mark.parametrize(
    "block", [one for one in BLOCKS if one.language == "bash"], ids=str
)
def test_commands_in_the_pages_have_the_options_they_use(block: Block) -> None:
    for name, *words in commands_in(block.text):
        assert name in COMMANDS, name
        options = {
            option
            for parameter in COMMANDS[name].params
            for option in (*parameter.opts, *parameter.secondary_opts)
        }
        used = {word.split("=")[0] for word in words if word.startswith("-")}
        assert used <= options, (name, used - options)


@pytest.mark.parametrize(
    "block", [one for one in BLOCKS if one.language == "toml"], ids=str
)
def test_recipes_in_the_pages_have_keys_that_exist(block: Block) -> None:
    sections: dict[str, type[BaseModel]] = {
        name: model for name, (model, _) in _sections().items()
    }
    for name, content in tomllib.loads(block.text).items():
        assert name in Recipe.model_fields, name
        for table in content if isinstance(content, list) else [content]:
            unknown = set(table) - set(sections[name].model_fields)
            assert not unknown, (name, unknown)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(b.is_run and b.is_slow for b in blocks_of(page))],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_what_a_page_shows_can_be_done(page: Path, world: Path) -> None:
    (world / "embeddings.parquet").unlink()  # a page makes it
    binaries = world / "bin"
    binaries.mkdir()
    for name, arguments in (("isogon", "-m isogon "), ("python", "")):
        script = f'#!/bin/sh\nexec "{sys.executable}" {arguments}"$@"\n'
        (binaries / name).write_text(script)
        (binaries / name).chmod(0o755)
    environment = os.environ | {
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "CHECKOUT": str(ROOT),
    }
    for block in blocks_of(page):
        if block.is_run and block.language in ("bash", "python"):
            shell = ["bash", "-euo", "pipefail", "-c"]
            command = shell if block.language == "bash" else [sys.executable, "-c"]
            done = subprocess.run(
                [*command, block.text], env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{block}\n{block.text}\n{done.stderr}"


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((ROOT / "docs/get-started.ipynb").read_text(encoding="utf-8"))
    names: dict[str, object] = {"__name__": "__main__"}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert not cell["outputs"]  # they would be out of date
            exec(compile("".join(cell["source"]), "cell", "exec"), names)
    assert Bundle.open(tmp_path / "digits.isogon").manifest.name == "digits"


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        place = target.split("#")[0]
        if "://" in target or not place or (page.parent / place).exists():
            continue
        # Made at every build of the pages.
        assert (page.parent / place).resolve().parent == ROOT / "docs/reference", target


def test_commands_that_the_pages_name_exist() -> None:
    for page in WRITTEN:
        named = set(re.findall(r"`isogon ([a-z]+)\b", page.read_text(encoding="utf-8")))
        assert named <= set(COMMANDS), page


def test_tables_are_those_of_the_results() -> None:
    tables = runpy.run_path(str(ROOT / "benchmarks/tables.py"))
    for page in tables["PAGES"]:
        text = page.read_text(encoding="utf-8")
        assert "<!-- table: " in text
        assert tables["with_tables"](text) == text, "run: python benchmarks/tables.py"


def test_figures_in_sentences_are_those_of_the_results() -> None:
    """A range is that of one student, or of all."""
    tables = runpy.run_path(str(ROOT / "benchmarks/tables.py"))

    def ranges(section: str, row: str) -> set[tuple[str, str]]:
        found = tables["speeds"](f"times the throughput of {section}", row)
        groups = [*found.values(), [one for values in found.values() for one in values]]
        assert all(len(group) >= 6 for group in groups)
        return {(f"{min(group):.1f}", f"{max(group):.1f}") for group in groups}

    readme, int8 = (
        " ".join((ROOT / page).read_text(encoding="utf-8").split())
        for page in ("README.md", "docs/int8.md")
    )
    numbers = r"([\d.]+) to ([\d.]+) times"
    of_int8 = ranges("ONNX Runtime in float32", "ONNX int8")
    assert set(re.findall(rf"int8 is {numbers} float32", readme)) <= of_int8
    assert set(re.findall(rf"{numbers} as fast as float32", int8)) <= of_int8
    of_onnx = ranges("eager torch", "ONNX fp32")
    assert set(re.findall(rf"ONNX Runtime {numbers} eager", readme)) <= of_onnx
    ((_, seconds),) = (
        row
        for row in tables["measured"](tables["DEFAULTS"], "tiny-64", ("seconds",))
        if row[0] == "student"
    )
    minutes = re.findall(r"(\d+) minutes of two CPU cores", readme)
    assert set(minutes) <= {f"{int(seconds) / 60:.0f}"}
    (student,) = (
        row[1]
        for row in tables["measured"](tables["CHAIN"], "tiny-64", ("distortion ↓",))
        if row[0] == "onnx/model.onnx"
    )
    assert set(re.findall(r"off by ([\d.]+) on average", readme)) <= {student}
    files = dict(tables["measured"](tables["CHAIN"], "tiny-64", ("MB",)))
    assert float(files["onnx/model.int8.onnx"]) / float(files["onnx/model.onnx"]) < 1 / 3


def test_charts_are_those_of_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """By their descriptions, which hold the figures: Matplotlib's versions draw differently."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    charts = runpy.run_path(str(ROOT / "benchmarks/charts.py"))
    for name, svg in charts["drawn"]():
        kept = (ROOT / f"docs/pictures/{name}.svg").read_text(encoding="utf-8")
        told = [re.findall("<desc>.*</desc>", text) for text in (svg, kept)]
        assert len(told[0]) == 1
        assert told[0] == told[1], "run: python benchmarks/charts.py"
        assert len(kept) < 40_000
        assert "prefers-color-scheme: dark" in kept
        assert "currentColor" in kept


@pytest.mark.slow
def test_the_pages_are_built_strictly(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stderr
    for page in ("index", "reference/command-line", "reference/http", "reference/settings"):
        assert (tmp_path / f"{page}.html").exists()
    assert "isogon distill" in (tmp_path / "reference/command-line.html").read_text()

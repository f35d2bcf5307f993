"""The repository follows its own rules."""

import ast
import itertools
import re
import tomllib
from pathlib import Path

import pytest

from isogon.cli.main import app
from serving.settings import Settings

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "isogon",
    "distill",
    "export",
    "serving",
)
MODULES = sorted(p for name in PACKAGES for p in (ROOT / name).rglob("*.py"))


@pytest.mark.parametrize("name", ["isogon/bundle"])
def test_a_package_re_exports_every_public_class_of_its_modules(name: str) -> None:
    exported = (ROOT / name / "__init__.py").read_text()
    for module in (ROOT / name).glob("*.py"):
        for node in ast.parse(module.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                assert f"{node.name} as {node.name}" in exported, node.name


def test_modules_stay_small_and_say_what_they_are_for() -> None:
    lengths = []
    for module in MODULES:
        text = module.read_text()
        assert ast.get_docstring(ast.parse(text)), module
        lengths.append(len(text.splitlines()))
    assert max(lengths) <= 450  # a file is as long as its idea, and few ideas are longer
    assert sorted(lengths)[len(lengths) // 2] <= 140


def test_constraints_are_plain_pins() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+]+", line) for line in lines)


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *itertools.chain(*extras)]
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    for requirement in wanted:
        name = re.split(r"[<>=;[ ]", requirement)[0].lower()
        if name == "tensorrt":  # no test needs it
            continue
        if "darwin" not in requirement or "!=" in requirement:
            assert name in pinned, requirement


def test_serves_help_names_every_setting() -> None:
    (command,) = (c for c in app.registered_commands if c.callback.__name__ == "serve")
    named = set(re.findall(r"ISOGON_([A-Z_]+)", command.callback.__doc__))
    fields = {name.upper() for name in Settings.model_fields}
    assert named == fields - {"BUNDLE"}

"""Every public function has an example in its docstring, and the example runs."""

import doctest
import inspect
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import isogon
from isogon import api

NAMES = [name for name, _ in inspect.getmembers(api, inspect.isfunction)]
# `serve` runs until it is interrupted, and push and pull ask a hub; test_hub.py and the
# tests of the service run them. The other two take the default models at 224 pixels.
ELSEWHERE = {"serve", "push", "pull"}
SLOW = {"distill", "recipe"}


def examples(name: str) -> list[doctest.Example]:
    docstring = inspect.getdoc(getattr(isogon, name))
    assert docstring
    return doctest.DocTestParser().get_examples(docstring)


def test_every_function_has_an_example() -> None:
    assert {"distill", "export", "load", "embed"} < set(NAMES)
    assert [name for name in NAMES if not examples(name)] == []


# An example leaves the closing of an opened image to Python, as a notebook does.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [])
        for name in NAMES
        if name not in ELSEWHERE
    ],
)
def test_an_example_runs(
    name: str,
    exported: Path,
    digits: Path,
    photographs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").symlink_to(digits)
    Path("others").symlink_to(photographs)
    if name not in SLOW:
        for bundle in ("photos", "a", "b"):
            shutil.copytree(exported, f"{bundle}.isogon")
    for picture, source in zip("ab", sorted(photographs.glob("*.jpg")), strict=False):
        shutil.copy(source, f"{picture}.jpg")
    known = {"isogon": isogon, "Image": Image, "array": np.zeros((8, 8, 3), np.uint8)}
    for example in examples(name):
        exec(compile(example.source, f"isogon.{name}", "single"), known)

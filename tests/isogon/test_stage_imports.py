"""A user's own folders may have the names of Isogon's stages."""

import subprocess
import sys
from pathlib import Path

import pytest

import isogon


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's folder with packages `export` and `serving`, and a script beside them."""
    for name in ("export", "serving"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("mine = True\n")
    (tmp_path / "export" / "teachers.py").write_text("def small(): ...\n")
    (tmp_path / "distill").mkdir()  # a folder of data, say
    return tmp_path


def run(folder: Path, program: str) -> subprocess.CompletedProcess[str]:
    (folder / "script.py").write_text(program)
    return subprocess.run(
        [sys.executable, "script.py"], cwd=folder, capture_output=True, text=True
    )


def test_isogon_finds_its_own_stages_and_says_which_folder_it_passed_by(
    folder: Path,
) -> None:
    found = run(
        folder,
        "import isogon\n"
        "from importlib.util import find_spec\n"
        "print(find_spec('export').origin, find_spec('distill').origin)\n",
    )
    ours = Path(isogon.__file__).parents[1]
    expected = [str(ours / name / "__init__.py") for name in ("export", "distill")]
    assert found.stdout.split() == expected, found.stderr
    assert f"not {folder / 'export' / '__init__.py'}. Rename yours" in found.stderr
    assert str(folder / "distill") not in found.stderr  # no code in it


def test_a_stage_that_was_imported_from_elsewhere_is_named(folder: Path) -> None:
    found = run(
        folder,
        "import serving, isogon\nprint(serving.mine)\nisogon.serve('nowhere.isogon')\n",
    )
    assert found.stdout.strip() == "True"
    assert "Isogon's stage `serving` cannot be loaded" in found.stderr
    assert str(folder / "serving" / "__init__.py") in found.stderr


def test_a_teacher_in_a_package_named_as_ours_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from isogon.errors import UsageError
    from isogon.networks import module_from_path

    monkeypatch.chdir(folder)
    with pytest.raises(UsageError, match=r"one of Isogon's own, `export`.*Rename your"):
        module_from_path("export.teachers:small")

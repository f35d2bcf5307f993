"""The wheel, installed outside the checkout."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
UV = Path(sys.executable).with_name("uv")


def run(*command: object, cwd: Path) -> str:
    environment = {
        name: value for name, value in os.environ.items() if name != "PYTHONPATH"
    }
    found = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,  # else the checkout may be what is found
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


@pytest.mark.slow
@pytest.mark.skipif(not UV.is_file(), reason="needs uv beside Python, as `make` has it")
def test_the_wheel_alone_gives_the_command_and_the_package(tmp_path: Path) -> None:
    run(UV, "build", "--wheel", "--out-dir", tmp_path / "dist", ROOT, cwd=tmp_path)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    run(UV, "venv", "--python", sys.executable, tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    pins = ("--constraint", ROOT / "constraints.txt")
    run(UV, "pip", "install", "--python", python, *pins, wheel, cwd=tmp_path)
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "export").mkdir(parents=True)
    assert "quickstart" in run(python.with_name("isogon"), "--help", cwd=elsewhere)
    program = (
        "import isogon, isogon.stage_imports; "
        "print(isogon.__file__, isogon.load, isogon.Bundle, isogon.UsageError)"
    )
    assert str(tmp_path / "venv") in run(python, "-c", program, cwd=elsewhere)
    shutil.rmtree(tmp_path / "venv")  # a gigabyte

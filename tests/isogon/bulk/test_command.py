"""`isogon embed` as a command: what it prints, and how it ends."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from isogon.bulk import Summary

WITHOUT = "import sys; sys.modules[{!r}] = None; from isogon.cli.main import main; main()"


def isogon(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_run_prints_its_figures_and_names_its_list(
    exported: Path, mixed: Path, embedded: Summary, tmp_path: Path
) -> None:
    output = tmp_path / "out.parquet"
    done = isogon("-m", "isogon", "embed", exported, mixed, "-o", output)
    assert done.returncode == 0, done.stderr
    told = " ".join(done.stdout.split())
    assert "embedded, width 32 │ 252" in told
    assert "unreadable │ 2" in told
    assert str(tmp_path / "out.parquet.unreadable.csv") in done.stderr
    assert "254/254" in done.stderr
    assert output.read_bytes() == embedded.output.read_bytes()


def test_too_many_unreadable_images_are_exit_status_1_and_the_rest_is_written(
    exported: Path, mixed: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.parquet"
    command = ["-m", "isogon", "embed", exported, mixed / "photographs", "-o", output]
    done = isogon(*command, "--json", "--workers", "1")
    assert done.returncode == 1
    assert "14.3% of the images are unreadable, more than" in done.stderr
    summary = json.loads(done.stdout)
    assert (summary["images"], summary["embedded"], summary["unreadable"]) == (14, 12, 2)
    assert summary["unreadable_list"] == str(tmp_path / "out.parquet.unreadable.csv")
    assert summary["images_per_second"] > 0
    assert output.exists()


@pytest.mark.parametrize(
    ("package", "arguments", "says"),
    [
        ("pyarrow", (), "Install the extra `bulk`"),
        ("ray", ("--executor", "ray"), "Install the extra `ray`"),
    ],
)
def test_a_package_that_is_missing_is_named(
    exported: Path,
    mixed: Path,
    tmp_path: Path,
    package: str,
    arguments: tuple[str, ...],
    says: str,
) -> None:
    command = ["-c", WITHOUT.format(package), "embed", exported, mixed]
    done = isogon(*command, "-o", tmp_path / "out.parquet", *arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_name_of_another_format_is_refused_before_any_work(
    exported: Path, mixed: Path, tmp_path: Path
) -> None:
    refused = isogon("-m", "isogon", "embed", exported, mixed, "-o", tmp_path / "e.csv")
    assert refused.returncode == 2
    told = " ".join(refused.stderr.split())
    assert "ends in .parquet" in told
    assert f"Write to {tmp_path / 'e.parquet'};" in told
    assert list(tmp_path.iterdir()) == []


def test_embedding_loads_neither_torch_nor_the_other_stages() -> None:
    code = (
        "import sys, isogon.bulk, isogon.bulk.executors.cluster; "
        "print({'torch', 'timm', 'ray', 'distill', 'export', 'serving'} & set(sys.modules))"
    )
    assert isogon("-c", code).stdout.strip() == "set()"

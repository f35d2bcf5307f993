"""How much memory there is, on machines and in containers of both kinds."""

import os
from pathlib import Path

import numpy as np
import pytest

from isogon.runtimes.memory import (
    available_memory,
    forget_peak,
    machine_memory,
    peak_memory,
    private_memory,
    resident_memory,
)

GIB = 2**30
MACHINE = machine_memory(Path("/nowhere"), Path("/nowhere"))


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A machine with 8 GiB left."""
    folder = tmp_path / "proc"
    (folder / "self").mkdir(parents=True)
    (folder / "meminfo").write_text(
        f"MemTotal: {16 * 2**20} kB\nMemFree: 1 kB\nMemAvailable: {8 * 2**20} kB\n"
    )
    return folder


def group(folder: Path, files: dict[str, object]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(f"{content}\n")


def second(limit: object, used: int, cached: int) -> dict[str, object]:
    statistics = f"anon 5\ninactive_file {cached}"
    return {"memory.max": limit, "memory.current": used, "memory.stat": statistics}


def test_without_limits_it_is_what_the_machine_has(proc: Path, tmp_path: Path) -> None:
    assert available_memory(proc, tmp_path) == 8 * GIB
    (proc / "self" / "cgroup").write_text("0::/\n")
    group(tmp_path / "groups", second("max", GIB, 0))
    assert available_memory(proc, tmp_path / "groups") == 8 * GIB
    assert available_memory(tmp_path / "nowhere", tmp_path) is None


def test_the_tightest_group_counts_and_cached_files_do_not(
    proc: Path, tmp_path: Path
) -> None:
    (proc / "self" / "cgroup").write_text("0::/pods/mine\n")
    group(tmp_path / "pods", second(4 * GIB, 3 * GIB, 2 * GIB))
    group(tmp_path / "pods" / "mine", second("max", GIB, 0))
    assert available_memory(proc, tmp_path) == 3 * GIB


def test_the_first_version_of_groups_counts_too(proc: Path, tmp_path: Path) -> None:
    (proc / "self" / "cgroup").write_text("5:cpu:/x\n4:memory,other:/pods\n0::/\n")
    statistics = f"inactive_file 7\ntotal_inactive_file {GIB}"
    group(
        tmp_path / "memory",  # a container sees its own group as the root
        {
            "memory.limit_in_bytes": 2 * GIB,
            "memory.usage_in_bytes": 2 * GIB,
            "memory.stat": statistics,
        },
    )
    assert available_memory(proc, tmp_path) == GIB


def test_a_group_beyond_its_limit_leaves_nothing(proc: Path, tmp_path: Path) -> None:
    (proc / "self" / "cgroup").write_text("0::/\n")
    group(tmp_path, second(GIB, 2 * GIB, 0))
    assert available_memory(proc, tmp_path) == 0


def test_without_control_groups_the_limit_is_the_machines_memory() -> None:
    assert MACHINE > 2**28
    assert 2**20 < resident_memory() < MACHINE


@pytest.mark.parametrize(
    ("line", "file"),
    [
        ("0::/app", "app/memory.max"),
        ("0::/app/worker", "app/memory.max"),  # the limit of a group around it
        ("0::/docker/1f", "memory.max"),  # inside of a container
        ("0::/app", "unified/app/memory.max"),  # both versions are mounted
        ("7:memory:/app", "memory/app/memory.limit_in_bytes"),
        ("7:cpu,memory:/docker/1f", "memory/memory.limit_in_bytes"),
    ],
)
def test_a_limit_of_either_version_counts(
    proc: Path, tmp_path: Path, line: str, file: str
) -> None:
    (proc / "self" / "cgroup").write_text(f"3:pids:/\n{line}\n")
    limit = tmp_path / "groups" / file
    limit.parent.mkdir(parents=True)
    limit.write_text("268435456\n")
    assert machine_memory(proc, tmp_path / "groups") == 268435456
    limit.write_text("max\n")
    assert machine_memory(proc, tmp_path / "groups") == MACHINE


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="without /proc")
def test_the_peak_is_that_of_what_was_held_meanwhile() -> None:
    forget_peak()
    before = resident_memory()
    values = np.ones(2**25)  # 256 MiB
    assert peak_memory() - before > 200 * 2**20
    del values
    assert private_memory(os.getpid()) > 2**20

"""A service to attack; alone, or in a control group with little memory."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from serving.process import free_port, wait_until_ready

ROOT = Path(__file__).parents[2]
_VERSION_1 = Path("/sys/fs/cgroup/memory")
_VERSION_2 = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Attacked:
    """A running service."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def memory(self, name: str = "VmRSS") -> int:
        """Return bytes of its memory: VmRSS now, VmHWM the peak."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
        raise ValueError(name)


Attack = Callable[..., AbstractContextManager[Attacked]]


@pytest.fixture
def attacked(exported: Path, tmp_path: Path) -> Attack:
    """Start the service with these settings, perhaps in a control group; end it."""

    @contextmanager
    def start(group: Path | None = None, **settings: object) -> Iterator[Attacked]:
        port, log = free_port(), tmp_path / "service.log"
        serve = [sys.executable, "-m", "isogon", "serve", "--port", str(port)]
        join = f"echo $$ > {group}/cgroup.procs && " if group else ""
        variables = {f"ISOGON_{name.upper()}": str(settings[name]) for name in settings}
        with (
            log.open("wb") as output,
            subprocess.Popen(
                ["/bin/sh", "-c", f'{join}exec "$@"', "sh", *serve],
                cwd=ROOT,
                env=os.environ | variables | {"ISOGON_BUNDLE": str(exported)},
                stdout=output,
                stderr=output,
            ) as process,
        ):
            try:
                wait_until_ready(process, f"http://127.0.0.1:{port}", log)
                yield Attacked(process, port, log)
            finally:
                process.terminate()
                process.wait(60)

    return start


@dataclass(frozen=True)
class Group:
    """A control group with a limit on memory."""

    path: Path
    peak_file: Path
    limit: int

    @property
    def peak(self) -> int:
        """The peak of the bytes in use."""
        return int(self.peak_file.read_text())


@pytest.fixture
def two_gibibytes() -> Iterator[Group]:
    """A group of 2 GiB, as the container of `deploy/compose.yaml` has them."""
    limit = 2 * 2**30
    name = f"isogon-{os.getpid()}"
    first = (_VERSION_1 / name, "memory.limit_in_bytes", "memory.max_usage_in_bytes")
    second = (_VERSION_2 / name, "memory.max", "memory.peak")
    path, limit_name, peak_name = first if _VERSION_1.is_dir() else second
    try:
        path.mkdir()
    except OSError as error:
        pytest.skip(f"needs a control group of its own: {error}")
    try:
        if not (path / limit_name).exists() or not (path / peak_name).exists():
            pytest.skip(f"control groups here have no {limit_name}, or no {peak_name}")
        (path / limit_name).write_text(str(limit))
        yield Group(path, path / peak_name, limit)
    finally:
        path.rmdir()

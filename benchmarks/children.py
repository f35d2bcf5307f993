"""Processes of a benchmark: those that are told line by line what to do, and servers."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
_READY_WITHIN = 90.0  # seconds
_STOPPED_WITHIN = 15.0


class Child:
    """A Python script that answers each JSON line with one."""

    def __init__(self, process: subprocess.Popen[str], script: str) -> None:
        self._process = process
        self._script = script

    def cpu(self) -> float:
        """Return the seconds of CPU time that it has used."""
        return _cpu(psutil.Process(self._process.pid))

    def ask(self, command: Mapping[str, object]) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._script} ended; its message is above.")
        found: dict[str, Any] = json.loads(line)
        return found


@contextmanager
def child(script: str, *arguments: str) -> Iterator[Child]:
    """Start a script of this folder, yield it, and end it."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "benchmarks" / script), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    try:
        yield Child(process, script)
    finally:
        process.terminate()
        process.communicate()


def environment() -> dict[str, str]:
    """Return the environment of all processes: this repository before an installed one."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "BENTOML_DO_NOT_TRACK": "True",
        "OTEL_SDK_DISABLED": "true",
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class Footprint:
    """What the processes of a server hold, together."""

    processes: int
    unique: float  # MiB that would be free without them
    resident: float  # MiB, shared pages counted in each
    libraries: frozenset[str]  # file names of what they have mapped


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """A server that is ready to answer."""

    port: int
    ready: float  # seconds from its start to its first answer
    process: subprocess.Popen[bytes]

    def cpu(self) -> float:
        """Return the seconds of CPU time that its processes have used."""
        return sum(_cpu(process) for process in self._processes())

    def footprint(self) -> Footprint:
        """Return what its processes hold at this moment."""
        processes = self._processes()
        memory = [process.memory_full_info() for process in processes]
        maps = {file.path for each in processes for file in each.memory_maps()}
        return Footprint(
            processes=len(processes),
            unique=sum(each.uss for each in memory) / 2**20,
            resident=sum(each.rss for each in memory) / 2**20,
            libraries=frozenset(Path(path).name for path in maps),
        )

    def _processes(self) -> list[psutil.Process]:
        first = psutil.Process(self.process.pid)
        return [first, *first.children(recursive=True)]


@contextmanager
def server(
    command: Sequence[str], *, port: int, health: str, log: Path, folder: Path = ROOT
) -> Iterator[Server]:
    """Start a server, yield it when `health` answers, and end it and its workers by id.

    Raises:
        RuntimeError: it ended, or was not ready in time; the message has its log's end.
    """
    start = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # its workers form a group that ends as one
        )
    try:
        while not _answers(f"http://127.0.0.1:{port}{health}"):
            if process.poll() is not None or time.perf_counter() - start > _READY_WITHIN:
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
                raise RuntimeError(f"{' '.join(command)} was not ready:\n{tail}")
            time.sleep(0.02)
        yield Server(port=port, ready=time.perf_counter() - start, process=process)
    finally:
        _end(process)


def free_port() -> int:
    """Return a loopback port that nobody listens on right now."""
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _cpu(process: psutil.Process) -> float:
    used = process.cpu_times()
    return float(used.user + used.system)


def _answers(url: str) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=2):
            return True
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a server and its workers, gently first."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(_STOPPED_WITHIN)
            return
        except ProcessLookupError:
            process.wait()
            return
        except subprocess.TimeoutExpired:
            continue

"""The processes of the serving benchmark: helper scripts, and the servers compared."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
CORES = os.cpu_count() or 1
OURS = "Isogon"
PLAIN_BENTOML = "plain BentoML"
_PEERS = ROOT / "benchmarks" / "peers"
_READY_WITHIN = 90.0  # seconds
_STOPPED_WITHIN = 15.0


class Child:
    """A Python script that answers each JSON line on stdin with one on stdout."""

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
            raise RuntimeError(f"{self._script} ended; see its message above.")
        found: dict[str, Any] = json.loads(line)
        return found


@contextmanager
def child(script: str, *arguments: str) -> Iterator[Child]:
    """Start a script of this folder, yield it, and stop it."""
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Footprint:
    """The memory and libraries of a server's processes together."""

    processes: int
    unique: float  # MiB that no other process shares
    resident: float  # MiB, shared pages counted in each
    libraries: frozenset[str]  # file names of mapped libraries


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
    """Start a server, yield it when `health` answers, and stop it and its workers.

    Raises:
        RuntimeError: it ended, or was not ready in time; the message has the log's end.
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
            start_new_session=True,  # one process group, stopped together
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


def environment() -> dict[str, str]:
    """Return the environment of all processes; this repository precedes others."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "BENTOML_DO_NOT_TRACK": "True",
        "OTEL_SDK_DISABLED": "true",
    }


def free_port() -> int:
    """Return a loopback port that is free now."""
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
    """Stop a server and its workers: SIGTERM, then SIGKILL."""
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Contender:
    """How to start one server, and the URL that embeds images."""

    name: str
    path: str  # path of the URL that embeds
    health: str  # path of the URL that answers when the model is loaded
    command: Callable[[Path, int], list[str]]  # from bundle and port
    workers: int = 1
    threads: int = 1  # threads per inference
    plain: bool = False  # accepts an image as the whole body

    @contextmanager
    def running(self, bundle: Path, log: Path) -> Iterator[Server]:
        """Serve a bundle on a free loopback port, until the end of the block."""
        settings = {
            "PEER_BUNDLE": str(bundle),
            "PEER_WORKERS": str(self.workers),
            "PEER_THREADS": str(self.threads),
        }
        port = free_port()
        command = ["env", *(f"{key}={value}" for key, value in settings.items())]
        command += self.command(bundle, port)
        with server(command, port=port, health=self.health, log=log) as ready:
            yield ready


def contenders() -> dict[str, Contender]:
    """Return the servers by name.

    Isogon, BentoML and FastAPI come twice: as one process, and as one per core. If several
    inferences run at once, each has one thread, which is fastest on a CPU; one BentoML
    worker runs one batch at a time, with all cores.
    """
    found = [
        Contender(
            name=OURS,
            path="/v1/embed",
            health="/readyz",
            command=_ours(1),
            plain=True,
        ),
        Contender(
            name=f"{OURS}, {CORES} processes",
            path="/v1/embed",
            health="/readyz",
            command=_ours(CORES),
            workers=CORES,
            plain=True,
        ),
        Contender(
            name=PLAIN_BENTOML,
            path="/embed",
            health="/readyz",
            command=_bentoml,
            threads=CORES,
        ),
        Contender(
            name=f"{PLAIN_BENTOML}, {CORES} workers",
            path="/embed",
            health="/readyz",
            command=_bentoml,
            workers=CORES,
        ),
        Contender(
            name=f"LitServe, {CORES} workers",
            path="/predict",
            health="/health",
            command=_litserve,
            workers=CORES,
        ),
        Contender(name="FastAPI", path="/embed", health="/health", command=_fastapi(1)),
        Contender(
            name=f"FastAPI, {CORES} workers",
            path="/embed",
            health="/health",
            command=_fastapi(CORES),
            workers=CORES,
        ),
    ]
    return {each.name: each for each in found}


def _ours(processes: int) -> Callable[[Path, int], list[str]]:
    def command(bundle: Path, port: int) -> list[str]:
        return [
            *(sys.executable, "-m", "isogon", "serve", str(bundle)),
            *("--port", str(port), "--processes", str(processes)),
        ]

    return command


def _bentoml(_: Path, port: int) -> list[str]:
    return [
        *(sys.executable, "-m", "bentoml", "serve", "plain_bentoml:Plain"),
        *("--working-dir", str(_PEERS), "--host", "127.0.0.1", "--port", str(port)),
    ]


def _litserve(_: Path, port: int) -> list[str]:
    return [sys.executable, str(_PEERS / "litserve_server.py"), str(port)]


def _fastapi(workers: int) -> Callable[[Path, int], list[str]]:
    def command(_: Path, port: int) -> list[str]:
        return [
            *(sys.executable, "-m", "uvicorn", "--app-dir", str(_PEERS)),
            *("--workers", str(workers), "--port", str(port)),
            *("--log-level", "warning", "fastapi_server:app"),
        ]

    return command

"""The servers beside one another: ours, and the same model behind others."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from children import ROOT, Server, free_port, server

CORES = os.cpu_count() or 1
OURS = "Isogon"
PLAIN_BENTOML = "plain BentoML"
_PEERS = ROOT / "benchmarks" / "peers"


@dataclass(frozen=True, kw_only=True, slots=True)
class Contender:
    """How to start one server, and where it takes images."""

    name: str
    path: str  # of the URL that embeds
    health: str  # of the URL that answers once the model is loaded
    command: Callable[[Path, int], list[str]]  # from bundle and port
    workers: int = 1
    threads: int = 1  # of a run
    plain: bool = False  # takes an image as the body itself

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


def contenders() -> dict[str, Contender]:
    """Return the servers by name.

    We, BentoML and FastAPI come twice: as one process, and with one for each core.
    Where several runs are under way at once a run has one thread, which is the fastest
    on a CPU; one worker of BentoML runs one batch at a time, with all cores.
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

"""Fixtures: two processes that are forked, without a new interpreter for each."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess

import pytest
import torch

from isogon.errors import UsageError

Work = Callable[[int], None]  # of one process, by its number
Watch = Callable[[], bool]  # whether to kill them now


@pytest.fixture(scope="session")
def forked() -> Callable[..., list[str]]:
    """Return a function that runs `work` in two forks of this process.

    It returns the error each ended with, or "". They are killed when `killed` says so.
    """
    if torch.cuda.is_available():
        pytest.skip("a process that knows CUDA cannot be forked")

    def run(work: Work, killed: Watch = lambda: False) -> list[str]:
        context = multiprocessing.get_context("fork")
        pipes = [context.Pipe(duplex=False) for _ in range(2)]
        processes: list[ForkProcess] = [
            context.Process(target=_one, args=(work, rank, end))
            for rank, (_, end) in enumerate(pipes)
        ]
        for process in processes:
            process.start()
        while any(process.is_alive() for process in processes) and not killed():
            processes[0].join(timeout=0.01)
            if not processes[0].is_alive():
                processes[1].join(timeout=60)
                break
        for process in processes:
            process.kill()
            process.join()
        return [ours.recv() if ours.poll() else "" for ours, _ in pipes]

    return run


@pytest.fixture
def two_processes(
    forked: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[str]]:
    """Return `forked` for the two processes of a run, which find each other."""

    def run(work: Work, killed: Watch = lambda: False) -> list[str]:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = str(one.getsockname()[1])
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", port)
        monkeypatch.setenv("WORLD_SIZE", "2")
        return forked(work, killed)

    return run


def _one(work: Work, rank: int, end: Connection) -> None:
    os.environ["LOCAL_RANK"] = str(rank)
    torch.set_num_threads(1)  # threads do not survive a fork
    said = ""
    try:
        work(rank)
    except UsageError as error:
        said = str(error)
    except Exception as error:
        said = repr(error)
    end.send(said)
    end.close()

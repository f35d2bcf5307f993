"""A client that disconnects, over a real connection; and how its request is reported."""

import dataclasses
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient

from isogon.runtimes import BatchProfile, Outputs, Pixels, Runner
from serving.api.bodies import while_connected
from serving.api.problems import install_handlers
from serving.batching import (
    ClosedError,
    DeadlineError,
    Observer,
    Pipeline,
    QueueFullError,
    RunError,
)
from serving.observability import Metrics
from serving.served_model import ServedModel
from serving.settings import Settings

PATIENCE = 30.0  # seconds; for what takes milliseconds on a machine at rest


class Held(Runner):
    """The real runner, which waits in each run while it is held."""

    name = "held"
    profile = BatchProfile(minimum=1, optimum=1, maximum=1)

    def __init__(self, runner: Runner) -> None:
        self.begun = threading.Semaphore(0)
        self.runs = 0
        self.go = threading.Event()
        self.go.set()
        self._runner = runner

    def run(self, pixels: Pixels) -> Outputs:
        self.runs += 1
        self.begun.release()
        assert self.go.wait(PATIENCE)
        return self._runner.run(pixels)


class Depths(Observer):
    """Notifies a waiter when the queue reaches a depth."""

    def __init__(self) -> None:
        self._seen: list[int] = []
        self._changed = threading.Condition()

    def depth(self, images: int) -> None:
        with self._changed:
            self._seen.append(images)
            self._changed.notify_all()

    def wait_for(self, images: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._seen[-1:] == [images], PATIENCE)


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """Serve on a free port of this machine, on a thread; yield the address."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(PATIENCE)


def test_the_images_of_a_client_that_leaves_are_dropped(
    exported: Path, photographs: Path
) -> None:
    model = ServedModel.load(exported, Settings(bundle=exported, cores=1))
    held, depths = Held(model.runner), Depths()
    pipeline = Pipeline(dataclasses.replace(model, runner=held), depths)
    held.runs, held.begun = 0, threading.Semaphore(0)  # after the measurement
    held.go.clear()
    app = FastAPI()
    install_handlers(app)
    left = threading.Event()

    @app.post("/{count}")
    async def ask(request: Request, count: int) -> int:
        body = await request.body()
        try:
            async with while_connected(request):
                return len(await pipeline.answer([body] * count))
        finally:
            if count == 7:
                left.set()

    photo = (photographs / "coffee.jpg").read_bytes()
    with served(app) as url, httpx.Client(base_url=url, timeout=PATIENCE) as client:
        answers: list[int] = []
        staying = threading.Thread(
            target=lambda: answers.append(client.post("/2", content=photo).json())
        )
        staying.start()
        assert held.begun.acquire(timeout=PATIENCE)
        depths.wait_for(1)
        address = (httpx.URL(url).host, httpx.URL(url).port)
        with socket.create_connection(address) as leaving:
            head = f"POST /7 HTTP/1.1\r\nhost: x\r\ncontent-length: {len(photo)}\r\n\r\n"
            leaving.sendall(head.encode() + photo)
            depths.wait_for(8)
        depths.wait_for(1)
        assert left.wait(PATIENCE)
        held.go.set()
        staying.join(PATIENCE)
    assert answers == [2]
    assert held.runs == 2


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (QueueFullError("The queue is full.", 2.3), 429, "3"),
        (QueueFullError("The queue is full.", 0.01), 429, "1"),
        (DeadlineError("It took too long."), 504, None),
        (ClosedError("It is shutting down."), 503, "1"),
        (RunError("CUDA is out of memory."), 500, None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_each_refusal_of_the_pipeline_has_its_status(
    error: Exception, status: int, retry_after: str | None
) -> None:
    app = FastAPI()
    install_handlers(app)
    app.state.metrics = Metrics()

    @app.get("/")
    async def fail() -> None:
        raise error

    answer = TestClient(app, raise_server_exceptions=False).get("/")
    assert answer.status_code == answer.json()["status"] == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers.get("retry-after") == retry_after
    told = answer.json()["detail"]
    assert told == str(error) or (status == 500 and "CUDA" not in told)

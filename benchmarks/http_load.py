"""The load generator: a separate process that reads commands on stdin.

Each line of stdin is a JSON object, each line of stdout its answer:

    {"port": 3000, "requests": "folder", "seconds": 3, "concurrency": 16}
    {"port": 3000, "requests": "folder", "seconds": 10, "rate": 120.0}

The folder holds whole HTTP/1.1 requests, one per file, written before the clock starts.
They are sent in turn over kept-alive connections; only the status and length of an answer
are read. The generator takes about 50 microseconds per request, the same for every server;
`cpu` is its share of a core.

With `concurrency` every connection sends its next request when it has its answer, until
the seconds are over; requests in flight at the end are awaited and count. With `rate`
requests start at random moments (Poisson arrivals, `rate` per second on average), whether
or not others have been answered, and each latency counts from that moment. So a server
that stalls gets the latency of every request that would have waited.
"""

import asyncio
import json
import math
import random
import resource
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import cast

import uvloop

_END_OF_HEAD = b"\r\n\r\n"
_LENGTH = b"content-length:"
_PATIENCE = 30.0  # seconds to wait for requests in flight at the end


class Connection(asyncio.Protocol):
    """One connection that sends a request at a time and reads its answer's length."""

    def __init__(self, done: Callable[["Connection", str], None]) -> None:
        self._done = done
        self._transport: asyncio.WriteTransport
        self._received = bytearray()
        self._expected = 0  # bytes of the answer; 0 while its head is incomplete
        self.began = 0.0
        self.busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's is none

    def send(self, request: bytes, began: float) -> None:
        """Send a request whose latency counts from `began`."""
        self.began, self.busy = began, True
        self._received.clear()
        self._expected = 0
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Take a part of the answer."""
        received = self._received
        received += data
        if self._expected == 0:
            end = received.find(_END_OF_HEAD)
            if end < 0:
                return
            head = bytes(received[:end]).lower()
            at = head.find(_LENGTH)
            if at < 0:
                self._finish("no content-length")
                return
            length = int(head[at + len(_LENGTH) :].split(b"\r", 1)[0])
            self._expected = end + len(_END_OF_HEAD) + length
        if len(received) >= self._expected:
            self._finish(received[9:12].decode())

    def connection_lost(self, error: Exception | None) -> None:
        """Report a request that will not be answered."""
        if self.busy:
            self._finish("connection lost")

    def close(self) -> None:
        """End the connection."""
        self.busy = False
        self._transport.close()

    def _finish(self, outcome: str) -> None:
        self.busy = False
        self._done(self, outcome)


class Run:
    """One run: what was sent, and when the answers came."""

    def __init__(self, port: int, requests: Iterator[bytes], seconds: float) -> None:
        self._port = port
        self._requests = requests
        self._seconds = seconds
        self._end = math.inf
        self._connections: list[Connection] = []
        self._idle: deque[Connection] = deque()
        self.latencies: list[float] = []  # of those answered with 200
        self.outcomes: Counter[str] = Counter()
        self.took = 0.0  # seconds, to the last answer

    async def closed_loop(self, concurrency: int) -> None:
        """Keep `concurrency` requests in flight until the end."""
        connections = [await self._connect(self._again) for _ in range(concurrency)]
        start = self._begin()
        for connection in connections:
            connection.send(next(self._requests), start)
        await self._finished()

    async def open_loop(self, rate: float) -> None:
        """Start requests at random moments, `rate` per second, until the end."""
        moment, clock = self._begin(), random.Random(0)
        while (moment := moment + clock.expovariate(rate)) < self._end:
            while (ahead := moment - time.perf_counter()) > 0:
                await asyncio.sleep(ahead)
            if not self._idle:
                self._idle.append(await self._connect(self._free))
            self._idle.popleft().send(next(self._requests), moment)
        await self._finished()

    def _begin(self) -> float:
        start = time.perf_counter()
        self._end = start + self._seconds
        return start

    def _again(self, connection: Connection, outcome: str) -> None:
        now = self._record(connection, outcome)
        if now < self._end and not outcome.startswith("connection"):
            connection.send(next(self._requests), now)

    def _free(self, connection: Connection, outcome: str) -> None:
        self._record(connection, outcome)
        if not outcome.startswith("connection"):
            self._idle.append(connection)

    def _record(self, connection: Connection, outcome: str) -> float:
        now = time.perf_counter()
        self.outcomes[outcome] += 1
        if outcome == "200":
            self.latencies.append(now - connection.began)
            self.took = now - self._end + self._seconds
        return now

    async def _connect(self, done: Callable[[Connection, str], None]) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: Connection(done), "127.0.0.1", self._port
        )
        self._connections.append(connection)
        return connection

    async def _finished(self) -> None:
        while time.perf_counter() < self._end or (
            any(each.busy for each in self._connections)
            and time.perf_counter() < self._end + _PATIENCE
        ):
            await asyncio.sleep(0.01)
        self.outcomes["no answer"] += sum(each.busy for each in self._connections)
        for connection in self._connections:
            connection.close()


def answer(command: dict[str, object], kept: dict[str, list[bytes]]) -> dict[str, object]:
    """Run one command and return its figures; `kept` caches folders already read."""
    folder = str(command["requests"])
    if folder not in kept:
        kept[folder] = [path.read_bytes() for path in sorted(Path(folder).iterdir())]
    spent, start = _cpu(), time.perf_counter()

    async def load() -> Run:
        run = Run(
            int(str(command["port"])), cycle(kept[folder]), float(str(command["seconds"]))
        )
        if "rate" in command:
            await run.open_loop(float(str(command["rate"])))
        else:
            await run.closed_loop(int(str(command["concurrency"])))
        return run

    run = uvloop.run(load())
    answered = run.outcomes["200"]
    return {
        "per_second": answered / run.took if answered else 0.0,
        "answered": answered,
        "median": quantile(run.latencies, 0.5),
        "p99": quantile(run.latencies, 0.99),
        "failures": {key: n for key, n in run.outcomes.items() if n and key != "200"},
        "cpu": (_cpu() - spent) / (time.perf_counter() - start),
    }


def quantile(values: list[float], share: float) -> float | None:
    """Return the quantile `share` of the values; None without values."""
    return sorted(values)[math.ceil(share * len(values)) - 1] if values else None


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    folders: dict[str, list[bytes]] = {}
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line), folders)), flush=True)

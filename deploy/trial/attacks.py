"""Hostile clients, and another client that measures how the service answers meanwhile."""

import io
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import numpy as np
from PIL import Image

# 34 bytes: a WebP of 8000 x 8000 pixels of one colour, the largest that is accepted.
BOMB = bytes.fromhex("524946461a000000574542505650384c0d0000002f3fdfcf07a856f1ead1ff020000")


class Others:
    """A client that requests `/livez` again and again, and keeps the longest wait."""

    def __init__(self) -> None:
        self.longest = 0.0  # seconds
        self.failed = 0

    def __str__(self) -> str:
        return f"others waited {self.longest:.1f} s at most, {self.failed} failed"

    def ask(self, url: str, ended: threading.Event) -> None:
        """Ask until `ended` is set."""
        with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
            while not ended.is_set():
                started = time.monotonic()
                try:
                    client.get("/livez").raise_for_status()
                except httpx.HTTPError:
                    self.failed += 1
                self.longest = max(self.longest, time.monotonic() - started)
                time.sleep(0.05)


@contextmanager
def others(url: str) -> Iterator[Others]:
    """Run another client during the block."""
    client, ended = Others(), threading.Event()
    thread = threading.Thread(target=client.ask, args=(url, ended))
    thread.start()
    try:
        yield client
    finally:
        ended.set()
        thread.join()


def endless_header(port: int, seconds: float) -> str:
    """Send one header that never ends; return how the connection ended."""
    ends = time.monotonic() + seconds
    sent = 0
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Endless: ")
        try:
            while time.monotonic() < ends:
                connection.sendall(b"a" * 65536)
                sent += 65536
        except OSError as error:
            return f"refused after {sent // 1024} KiB ({type(error).__name__})"
    return f"taken for {seconds:.0f} s, {sent // 1024} KiB"


@contextmanager
def slow_bodies(port: int, sizes: list[int]) -> Iterator[None]:
    """Hold requests open; each sends `sizes` bytes of a body that never ends."""
    head = (
        b"POST /v1/embed HTTP/1.1\r\nHost: x\r\n"
        b"Content-Type: multipart/form-data; boundary=b\r\n"
        b"Content-Length: 100000000\r\n\r\n"
        b'--b\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n'
    )
    opened = []
    try:
        for size in sizes:
            connection = socket.create_connection(("127.0.0.1", port), timeout=5)
            opened.append(connection)
            with suppress(OSError):  # may be refused before all of it is sent
                connection.sendall(head)
                connection.sendall(b"\0" * size)
        yield
    finally:
        for connection in opened:
            connection.close()


def repeated_scans(side: int, times: int) -> bytes:
    """Return a progressive JPEG whose last scan is stored `times` times more."""
    data = photograph(side, progressive=True)
    last = data.rfind(b"\xff\xda")
    return data[:-2] + data[last:-2] * times + b"\xff\xd9"


def photograph(side: int, kind: str = "JPEG", **options: Any) -> bytes:
    """Return a square image with `side` pixels a side, smooth like a photograph."""
    rough = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(rough).resize((side, side)).save(encoded, kind, quality=85, **options)
    return encoded.getvalue()


def noise(seed: int) -> bytes:
    """Return a PNG of random noise."""
    pixels = random.Random(seed).randbytes(64 * 64 * 3)
    encoded = io.BytesIO()
    Image.frombytes("RGB", (64, 64), pixels).save(encoded, "PNG")
    return encoded.getvalue()

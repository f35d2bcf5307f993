"""Shutdown answers all accepted requests; and a start that fails."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.process import free_port

ROOT = Path(__file__).parents[2]


def sent_in_part(port: int, image: bytes) -> socket.socket:
    """A connection on which only half of a request is sent."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.sendall(
        b"POST /v1/embed HTTP/1.1\r\nhost: x\r\ncontent-type: image/jpeg\r\n"
        b"content-length: %d\r\n\r\n" % len(image) + image[: len(image) // 2]
    )
    return connection


def everything(connection: socket.socket) -> bytes:
    answer = b""
    while chunk := connection.recv(65536):
        answer += chunk
    return answer


def test_sigterm_answers_what_was_accepted_and_ends_with_0(
    isogon_serve: Any, exported: Path, photographs: Path
) -> None:
    image = (photographs / "coffee.jpg").read_bytes()
    with isogon_serve(exported) as serving:
        with sent_in_part(serving.port, image) as connection:
            time.sleep(0.5)
            serving.process.send_signal(signal.SIGTERM)
            time.sleep(1.5)
            assert serving.process.poll() is None
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", serving.port), timeout=5)
            connection.sendall(image[len(image) // 2 :])
            answer = everything(connection)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b'"is_ood"' in answer
        assert answer.endswith(b"}")
        assert serving.process.wait(10) == 0
        with pytest.raises(httpx.ConnectError):
            serving.client.get("/livez")


@pytest.mark.slow
def test_a_request_longer_than_the_shutdown_is_told_that_the_service_ended(
    isogon_serve: Any, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISOGON_DEADLINE", "1")
    with isogon_serve(exported) as serving:
        with sent_in_part(serving.port, b"x" * 1000) as connection:
            time.sleep(0.5)
            serving.process.send_signal(signal.SIGTERM)
            answer = everything(connection)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"application/problem+json" in answer
        assert serving.process.wait(10) == 0


def test_a_worker_that_cannot_load_ends_the_service(tmp_path: Path) -> None:
    found = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "bentoml",
                "serve",
                "serving.bento.service:IsogonService",
            ),
            *("--host", "127.0.0.1", "--port", str(free_port())),
        ],
        cwd=ROOT,
        env=os.environ | {"ISOGON_BUNDLE": str(tmp_path), "BENTOML_DO_NOT_TRACK": "True"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert found.returncode != 0
    told = found.stdout + found.stderr
    assert told.count("found a directory without manifest.json") == 1

"""Tests on a raw connection: requests refused before their body is complete."""

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from serving import running_service

KEY = "a-key"
HEAD = (
    b"POST /v1/embed HTTP/1.1\r\nhost: x\r\nauthorization: Bearer " + KEY.encode() + b"\r\n"
)


@pytest.fixture(scope="module")
def service(
    exported: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """A service with a key, bodies of a million bytes at most, two in all, in two seconds."""
    settings = {
        "ISOGON_API_KEYS": KEY,
        "ISOGON_MAX_BODY_BYTES": "1000000",
        "ISOGON_MAX_HELD_BYTES": "2000000",
        "ISOGON_UPLOAD_SECONDS": "2",
    }
    log = tmp_path_factory.mktemp("connections") / "service.log"
    with (
        running_service(exported, log, settings) as url,
        httpx.Client(base_url=url, headers={"x-api-key": KEY}) as client,
    ):
        yield client
    assert KEY not in log.read_text()


def connection_to(service: httpx.Client) -> socket.socket:
    assert service.base_url.port is not None
    return socket.create_connection(("127.0.0.1", service.base_url.port), timeout=10)


def problem(service: httpx.Client, request: bytes) -> dict[str, object]:
    """Send a request that never ends; return the problem that answers it."""
    with connection_to(service) as connection:
        connection.sendall(request)
        answer = b""
        while b"\r\n\r\n" not in answer or not answer.endswith(b"}"):
            chunk = connection.recv(65536)
            assert chunk, answer
            answer += chunk
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    found: dict[str, object] = json.loads(body)
    return found


@pytest.mark.parametrize(
    "kind", [b"image/jpeg", b"application/json", b"multipart/form-data; boundary=b"]
)
def test_a_body_over_the_limit_is_refused_before_its_end(
    service: httpx.Client, kind: bytes
) -> None:
    head = HEAD + b"content-type: " + kind + b"\r\n"
    part = b'--b\r\ncontent-disposition: form-data; name="images"; filename="a"\r\n\r\n'
    begun = part if kind.startswith(b"multipart") else b""
    announced = head + b"content-length: 1000001\r\n\r\n" + begun
    assert problem(service, announced)["status"] == 413
    body = begun + b"x" * 1_000_001
    chunked = head + b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(body), body)
    assert problem(service, chunked)["status"] == 413


def test_a_client_that_asks_first_is_refused_without_sending(service: httpx.Client) -> None:
    asks = b"content-type: image/jpeg\r\nexpect: 100-continue\r\n"
    found = problem(service, HEAD + asks + b"content-length: 1000001\r\n\r\n")
    assert found["status"] == 413
    keyless = b"POST /v1/embed HTTP/1.1\r\nhost: x\r\n" + asks
    found = problem(service, keyless + b"content-length: 1000\r\n\r\n")
    assert found["status"] == 401


def test_without_a_key_the_body_is_not_waited_for(service: httpx.Client) -> None:
    head = b"POST /v1/embed HTTP/1.1\r\nhost: x\r\ncontent-type: image/jpeg\r\n"
    assert problem(service, head + b"content-length: 1000\r\n\r\nx")["status"] == 401


def test_a_body_that_does_not_arrive_in_time_is_408(service: httpx.Client) -> None:
    began = time.monotonic()
    head = HEAD + b"content-type: image/jpeg\r\ncontent-length: 1000\r\n\r\nx"
    assert problem(service, head)["status"] == 408
    assert 1.5 < time.monotonic() - began < 6


def test_bodies_for_which_there_is_no_room_are_429(service: httpx.Client) -> None:
    """The first sender keeps the memory until it disconnects or stops sending."""

    def three_bytes() -> httpx.Response:
        headers = {"content-type": "image/jpeg"}
        return service.post("/v1/embed", content=b"xxx", headers=headers)

    head = HEAD + b"content-type: image/jpeg\r\ncontent-length: 1000000\r\n\r\n"
    for seconds in (0.1, 0.4, 1.0):  # until the others' bytes are read
        with connection_to(service) as other:
            other.sendall(head + b"x" * 999_999)  # and no more
            time.sleep(seconds)
            refused = three_bytes()
        if refused.status_code == 429:
            break
    assert 1 <= int(refused.headers["retry-after"]) <= 30
    assert refused.json()["detail"] == (
        "Request bodies from this client of 999,999 bytes are in memory; the limit is "
        "1,000,000 for one client. Send the request again later."
    )
    time.sleep(0.1)
    assert three_bytes().status_code == 400
    assert 'isogon_refused_requests_total{reason="client"}' in service.get("/metrics").text


HEADS = {
    "header": b"GET /livez HTTP/1.1\r\nx: ",
    "path": b"GET /",
    "trailer": HEAD + b"transfer-encoding: chunked\r\n\r\n0\r\nx: ",
    "chunk extension": HEAD + b"transfer-encoding: chunked\r\n\r\n1;",
}


@pytest.mark.parametrize("place", HEADS)
def test_what_is_not_a_body_ends_within_a_bound(service: httpx.Client, place: str) -> None:
    """Other requests are still answered: parsing once took all of the process's time."""
    sent = 0
    with connection_to(service) as connection:
        connection.sendall(HEADS[place])
        with pytest.raises(ConnectionError):
            while sent < 64 * 2**20:
                connection.sendall(b"x" * 65536)
                sent += 65536
                if sent % 2**20 == 0:
                    assert service.get("/livez").elapsed.total_seconds() < 2
    assert sent < 16 * 2**20  # what the buffers of both ends hold


def test_a_head_over_the_limit_is_431(service: httpx.Client) -> None:
    with connection_to(service) as connection:
        connection.sendall(HEADS["header"] + b"x" * 65000)
        time.sleep(0.2)
        connection.sendall(b"x" * 2000)
        time.sleep(0.2)
        connection.sendall(b"x")
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b"application/problem+json" in answer


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/nowhere", 404, None),
        ("GET", "/docs", 404, None),
        ("GET", "/redoc", 404, None),
        ("GET", "/docs.json", 404, None),
        ("GET", "/schema.json", 404, None),
        ("GET", "/static_content/index.css", 404, None),
        ("POST", "/v1/nothing", 404, None),
        ("GET", "/v1/embed", 405, {"POST"}),
        ("DELETE", "/v1/model", 405, {"GET"}),
        ("POST", "/", 405, {"GET", "HEAD"}),
        ("POST", "/readyz", 405, {"GET", "HEAD"}),
        ("PUT", "/v1/models", 405, {"GET"}),
    ],
)
def test_everything_else_is_a_problem_of_ours(
    service: httpx.Client, method: str, path: str, status: int, allow: set[str] | None
) -> None:
    answer = service.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    allowed = answer.headers.get("allow")
    assert (allowed and set(allowed.split(", "))) == allow

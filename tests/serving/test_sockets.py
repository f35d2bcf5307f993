"""Sockets that the service listens on: IPv4, IPv6 or a unix socket."""

import os
import stat
import subprocess
import sys
from pathlib import Path
from socket import AF_INET, AF_INET6, AF_UNIX, SOCK_STREAM, create_connection, socket
from typing import Any

import httpx
import pytest

from isogon.errors import UsageError
from serving.launch.sockets import bound, shown
from serving.process import free_port


def test_two_colons_accept_ipv4_and_ipv6() -> None:
    port = free_port()
    with bound(host="::", port=port, uds=None) as (listening,):
        listening.listen()
        for address in ("127.0.0.1", "::1"):
            create_connection((address, port), timeout=5).close()


def test_a_name_is_bound_to_all_of_its_addresses() -> None:
    with bound(host="localhost", port=free_port(), uds=None) as sockets:
        families = {each.family for each in sockets}
    assert AF_INET in families
    assert families <= {AF_INET, AF_INET6}


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_that_is_not_ours_is_refused(host: str) -> None:
    with (
        pytest.raises(
            UsageError, match=rf"Cannot listen on {host}:4000: .*another port or"
        ),
        bound(host=host, port=4000, uds=None),
    ):
        pass


def test_a_port_that_is_taken_is_refused_before_anything_is_loaded() -> None:
    with socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        found = subprocess.run(
            [sys.executable, "-m", "isogon", "serve", "nothing", "--port", str(port)],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert found.returncode == 2
    assert found.stderr.splitlines() == [
        f"Error Cannot listen on 127.0.0.1:{port}: Address already in use. Choose another "
        f"--port or --host."
    ]


def test_a_unix_socket_is_for_its_user_and_group(tmp_path: Path) -> None:
    path = tmp_path / "isogon.sock"
    with bound(host="", port=0, uds=path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        with (
            pytest.raises(UsageError, match="already in use"),
            bound(host="", port=0, uds=path),
        ):
            pass
    assert not path.exists()
    with socket(AF_UNIX, SOCK_STREAM) as killed:  # nobody listens: of a killed service
        killed.bind(str(path))
    with bound(host="", port=0, uds=path):
        assert path.exists()
    path.write_text("a file")
    with (
        pytest.raises(UsageError, match="the path is not a socket"),
        bound(host="", port=0, uds=path),
    ):
        pass
    assert path.read_text() == "a file"


def test_an_address_is_shown_as_it_is_written() -> None:
    assert shown(host="::", port=1, uds=None) == "http://[::]:1"
    assert shown(host="localhost", port=1, uds=None) == "http://localhost:1"
    assert shown(host="", port=0, uds=Path("/run/a.sock")) == "unix:/run/a.sock"


def test_the_service_answers_over_a_unix_socket(
    exported: Path, photographs: Path, tmp_path: Path
) -> None:
    path = tmp_path / "s"
    command = [sys.executable, "-m", "isogon", "serve", "--uds", str(path)]
    environment = os.environ | {"ISOGON_BUNDLE": str(exported)}
    photo = (photographs / "coffee.jpg").read_bytes()
    transport: Any = httpx.HTTPTransport(uds=str(path), retries=3)
    with (
        subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process,
        httpx.Client(transport=transport, base_url="http://x", timeout=60) as client,
    ):
        try:
            while not path.exists() and process.poll() is None:
                pass
            answer = client.post("/v1/score", files={"images": photo})
        finally:
            client.close()
            process.terminate()
    assert answer.status_code == 200
    assert process.returncode == 0
    assert not path.exists()

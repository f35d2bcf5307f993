"""The service as a process: started, waited for, and ended by its own id."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import SO_REUSEADDR, SOL_SOCKET, socket
from typing import NoReturn

from bundle import CheckFailedError, UsageError
from serving.models import Models
from serving.settings import settings_from_environment

_READY_WITHIN = 60.0  # seconds
_STOPPED_WITHIN = 15.0


def serve(bundle: Path, *, host: str, port: int) -> NoReturn:
    """Become the server for `bundle`: its signals and exit status are this process's.

    The model is loaded once before, so that what is wrong is said and not retried.

    Raises:
        IsogonError: a setting, the bundle or its golden check is not in order.
    """
    settings = settings_from_environment(bundle)
    Models.load(settings)
    try:
        with socket() as probe:
            probe.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise UsageError(
            f"Cannot listen on {host}:{port}: {error.strerror}. Choose another --port or "
            f"--host."
        ) from error
    print(f"Serving {bundle} at http://{host}:{port}", file=sys.stderr, flush=True)
    os.execve(sys.executable, _command(host, port), _environment(settings.bundle))


@contextmanager
def running_service(bundle: Path, log: Path) -> Iterator[str]:
    """Serve `bundle` on a free loopback port; yield its URL once it is ready.

    Args:
        bundle: the bundle's directory.
        log: a file for what the service prints.

    Raises:
        CheckFailedError: it ended or was not ready within a minute.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as output:
        process = subprocess.Popen(
            _command("127.0.0.1", port),
            env=_environment(bundle),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # its workers form a group that ends as one
        )
        try:
            _wait_until_ready(process, url, log)
            yield url
        finally:
            _end(process)


def free_port() -> int:
    """Return a loopback port that nobody listens on right now."""
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _command(host: str, port: int) -> list[str]:
    root = str(Path(__file__).resolve().parent.parent)
    return [
        *(sys.executable, "-m", "bentoml", "serve", "serving.service:Isogon"),
        *("--working-dir", root, "--host", host, "--port", str(port)),
    ]


def _environment(bundle: Path) -> dict[str, str]:
    return {
        "BENTOML_DO_NOT_TRACK": "True",
        "OTEL_SDK_DISABLED": "true",
        **os.environ,
        "ISOGON_BUNDLE": str(bundle.resolve()),
    }


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + _READY_WITHIN
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with direct.open(f"{url}/readyz", timeout=2):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    ended = process.poll()
    what = "was not ready" if ended is None else f"ended with status {ended}"
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    raise CheckFailedError(
        f"The service {what} within {_READY_WITHIN:.0f} s. Its log, {log}, ends:\n{tail}"
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the service and its workers, gently first."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(_STOPPED_WITHIN)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

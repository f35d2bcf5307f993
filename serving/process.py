"""The service as a process: started, waited for, and ended by its own id."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from socket import SO_REUSEADDR, SOL_SOCKET, socket
from typing import NoReturn

from bundle import CheckFailedError, UsageError
from serving.lists import Source, sources_from
from serving.models import check
from serving.observability import traces_are_asked_for
from serving.settings import settings_from_environment

_READY_WITHIN = 60.0  # seconds
# Accepted requests are given this long to be answered once the service is told to end:
# less than the 30 s after which Kubernetes and others kill.
_FINISHED_WITHIN = 25
_STOPPED_WITHIN = _FINISHED_WITHIN + 5.0


def serve(bundles: Sequence[str], *, host: str, port: int, watch: bool = False) -> NoReturn:
    """Become the server for `bundles`: its signals and exit status are this process's.

    The models are loaded once before, so that what is wrong is said and not retried.

    Args:
        bundles: each a directory, or `NAME=DIRECTORY`; the first is the default.
        host: the address to listen on.
        port: the TCP port.
        watch: take a bundle up when it changes, as at SIGHUP.

    Raises:
        IsogonError: a setting, a bundle or its golden check is not in order.
    """
    settings = settings_from_environment(bundles)
    traces_are_asked_for()  # raises where they are and cannot be sent
    check(settings)
    try:
        with socket() as probe:
            probe.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise UsageError(
            f"Cannot listen on {host}:{port}: {error.strerror}. Choose another --port or "
            f"--host."
        ) from error
    environment = _environment(settings.bundle, {"ISOGON_WATCH": "true"} if watch else {})
    served = ", ".join(map(str, settings.bundle))
    print(f"Serving {served} at http://{host}:{port}", file=sys.stderr, flush=True)
    os.execve(sys.executable, _command(host, port), environment)


@contextmanager
def running_service(
    bundles: Path | Sequence[str | Path],
    log: Path,
    environment: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Serve one or several bundles on a free loopback port; yield the URL once ready.

    Args:
        bundles: as of `serve`.
        log: a file for what the service prints.
        environment: variables besides this process's.

    Raises:
        CheckFailedError: it ended or was not ready within a minute.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as output:
        process = subprocess.Popen(
            _command("127.0.0.1", port),
            env=_environment(sources_from(bundles), environment or {}),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # its workers form a group that ends as one
        )
        try:
            wait_until_ready(process, url, log)
            yield url
        finally:
            _end(process)


def free_port() -> int:
    """Return a loopback port that nobody listens on right now."""
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Return when the service at `url` is ready.

    Raises:
        CheckFailedError: it ended or was not ready within a minute.
    """
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


def _command(host: str, port: int) -> list[str]:
    root = str(Path(__file__).resolve().parent.parent)
    return [
        *(sys.executable, "-m", "bentoml", "serve", "serving.service:Isogon"),
        *("--working-dir", root, "--host", host, "--port", str(port)),
        *("--timeout-graceful-shutdown", str(_FINISHED_WITHIN)),
    ]


def _environment(sources: Sequence[Source], added: Mapping[str, str]) -> dict[str, str]:
    # Absolute, but not resolved: a link may come to lead to another bundle.
    places = (Source(name=source.name, path=source.path.absolute()) for source in sources)
    return {
        "BENTOML_DO_NOT_TRACK": "True",
        **os.environ,
        **added,
        "ISOGON_BUNDLE": os.pathsep.join(map(str, places)),
    }


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the service and its workers, gently first."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(_STOPPED_WITHIN)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

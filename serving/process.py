"""The service as a process: `serve` is the process, `running_service` starts one."""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from socket import socket

from isogon.errors import CheckFailedError, UsageError
from serving.launch.sockets import bound, shown
from serving.settings import Source, settings_from_environment, sources_from

_READY_WITHIN = 60.0  # seconds
_STOPPED_WITHIN = 30.0


def serve(
    bundles: Sequence[str] = (),
    *,
    host: str = "127.0.0.1",
    port: int = 3000,
    uds: Path | None = None,
    given: Mapping[str, object] | None = None,
) -> None:
    """Serve `bundles` until SIGTERM or SIGINT, and finish accepted requests.

    Args:
        bundles: directories, or `NAME=DIRECTORY`; the first is the default. None given:
            those of ISOGON_BUNDLE.
        host: the address to listen on.
        port: the TCP port.
        uds: the path of a unix socket, instead of host and port.
        given: settings by name; they override environment variables.

    Raises:
        IsogonError: a setting or a bundle is faulty, or a golden check fails.
    """
    if not bundles and not os.environ.get("ISOGON_BUNDLE"):
        raise UsageError(
            "Expected a bundle to serve, got none. Name one: `isogon serve BUNDLE`, or "
            "set ISOGON_BUNDLE."
        )
    settings = settings_from_environment(bundles or None, given)

    def announce(names: Sequence[str]) -> None:
        address = shown(host=host, port=port, uds=uds)
        print(f"Serving {', '.join(names)} at {address}", file=sys.stderr, flush=True)

    with bound(host=host, port=port, uds=uds) as sockets:
        if settings.processes > 1:
            from serving.launch.supervisor import (
                supervise,  # importing BentoML takes a second
            )

            supervise(sockets, settings, announce)
        else:
            from serving.bento.service import load
            from serving.launch.listening import listen

            announce(load(settings).names)
            listen(sockets, deadline=settings.deadline)


@contextmanager
def running_service(
    bundles: Path | Sequence[str | Path],
    log: Path,
    environment: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Serve one or several bundles on a free loopback port; yield the URL once ready.

    Args:
        bundles: as of `serve`.
        log: a file for the service's output.
        environment: variables in addition to this process's.

    Raises:
        CheckFailedError: it ended or was not ready within a minute.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "isogon", "serve", "--port", str(port)],
            cwd=Path(__file__).parent.parent,
            env=_environment(sources_from(bundles), environment or {}),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            wait_until_ready(process, url, log)
            yield url
        finally:
            _end(process)


def free_port() -> int:
    """Return a loopback port that is free now."""
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


def _environment(sources: Sequence[Source], added: Mapping[str, str]) -> dict[str, str]:
    # Absolute, but not resolved: a link may later point to another bundle.
    places = (Source(name=source.name, path=source.path.absolute()) for source in sources)
    return {
        **os.environ,
        **added,
        "ISOGON_BUNDLE": os.pathsep.join(map(str, places)),
    }


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the service: SIGTERM first, SIGKILL if that is not enough."""
    process.terminate()
    try:
        process.wait(_STOPPED_WITHIN)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

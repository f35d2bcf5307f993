"""The service as a process: started, waited for, and ended by its own id."""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from socket import SO_REUSEADDR, SOCK_STREAM, SOL_SOCKET, getaddrinfo, socket

from isogon.errors import CheckFailedError, UsageError
from serving.lists import Source, sources_from
from serving.settings import settings_from_environment

_READY_WITHIN = 60.0  # seconds
_STOPPED_WITHIN = 30.0


def serve(bundles: Sequence[str], *, host: str, port: int, watch: bool = False) -> None:
    """Serve `bundles` in this process until SIGTERM or SIGINT, and finish what came.

    Args:
        bundles: each a directory, or `NAME=DIRECTORY`; the first is the default.
        host: the address to listen on.
        port: the TCP port.
        watch: take a bundle up when it changes, as at SIGHUP.

    Raises:
        IsogonError: a setting, a bundle or its golden check is not in order.
    """
    if watch:
        os.environ["ISOGON_WATCH"] = "true"
    settings = settings_from_environment(bundles)
    try:
        family, *_, address = getaddrinfo(host, port, type=SOCK_STREAM)[0]
        with socket(family) as probe:
            probe.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise UsageError(
            f"Cannot listen on {host}:{port}: {error.strerror}. Choose another --port or "
            f"--host."
        ) from error
    from serving.listening import listen  # with BentoML, which takes a second
    from serving.service import load

    served = ", ".join(load(settings).names)
    name = f"[{host}]" if ":" in host else host
    print(f"Serving {served} at http://{name}:{port}", file=sys.stderr, flush=True)
    listen(host=host, port=port, deadline=settings.deadline)


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
            [sys.executable, "-m", "serving", "127.0.0.1", str(port)],
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


def _environment(sources: Sequence[Source], added: Mapping[str, str]) -> dict[str, str]:
    # Absolute, but not resolved: a link may come to lead to another bundle.
    places = (Source(name=source.name, path=source.path.absolute()) for source in sources)
    return {
        **os.environ,
        **added,
        "ISOGON_BUNDLE": os.pathsep.join(map(str, places)),
    }


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the service, gently first."""
    process.terminate()
    try:
        process.wait(_STOPPED_WITHIN)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

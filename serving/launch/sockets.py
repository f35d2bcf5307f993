"""The sockets that the service listens on: TCP or unix, bound before models are loaded."""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import (
    AF_INET,
    AF_INET6,
    AF_UNIX,
    AI_PASSIVE,
    IPPROTO_IPV6,
    IPV6_V6ONLY,
    SO_REUSEADDR,
    SOCK_STREAM,
    SOL_SOCKET,
    AddressFamily,
    getaddrinfo,
    has_dualstack_ipv6,
    socket,
)

from isogon.errors import UsageError, option

_UDS_MODE = 0o660  # the user and the group that run the service may connect
_ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


@contextmanager
def bound(*, host: str, port: int, uds: Path | None) -> Iterator[list[socket]]:
    """Yield bound sockets; they are closed at the end.

    A TCP port is not listened on before the models are ready. A unix socket is listened on
    at once, and clients wait: this shows other processes that it is in use.

    Args:
        host: a name or an address. `::` is every address, IPv4 included; without IPv6 in
            the kernel it means 0.0.0.0. A name with several addresses is bound to all.
        port: the TCP port.
        uds: the path of a unix socket, instead of host and port.

    Raises:
        UsageError: the address is in use, or is not one of this machine.
    """
    opened = [_unix(uds)] if uds else _inet(host, port)
    try:
        yield opened
    finally:
        for each in opened:
            each.close()
        if uds:
            uds.unlink(missing_ok=True)


def shown(*, host: str, port: int, uds: Path | None) -> str:
    """Return the address as a URL, for people."""
    if uds:
        return f"unix:{uds}"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _inet(host: str, port: int) -> list[socket]:
    if host == "::" and not has_dualstack_ipv6():
        host = "0.0.0.0"
    opened: list[socket] = []
    try:
        found = getaddrinfo(host, port, type=SOCK_STREAM, flags=AI_PASSIVE)
        for family, address in dict.fromkeys((each[0], each[4]) for each in found):
            try:
                opened.append(_bound(family, address, dual=host == "::"))
            except OSError as error:
                # `localhost` is also ::1, which a container may not have.
                if error.errno not in _ABSENT or len(found) == 1:
                    raise
        if not opened:
            raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    except OSError as error:
        for each in opened:
            each.close()
        raise UsageError(
            f"Cannot listen on {host}:{port}: {error.strerror}. Choose another "
            f"{option('port')} or {option('host')}."
        ) from error
    return opened


def _bound(family: AddressFamily, address: object, *, dual: bool) -> socket:
    opened = socket(family, SOCK_STREAM)
    try:
        opened.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        if family == AF_INET6:
            opened.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, int(not dual))
        assert family in (AF_INET, AF_INET6)
        opened.bind(address)  # type: ignore[arg-type]  # what getaddrinfo returned
    except OSError:
        opened.close()
        raise
    return opened


def _unix(path: Path) -> socket:
    opened = socket(AF_UNIX, SOCK_STREAM)
    try:
        _remove_leftover(path)
        # By umask, not chmod: others must not connect in between.
        before = os.umask(0o777 & ~_UDS_MODE)
        try:
            opened.bind(str(path))
        finally:
            os.umask(before)
        opened.listen()
    except OSError as error:
        opened.close()
        reason = error.strerror or str(error)
        raise UsageError(
            f"Cannot listen on {path}: {reason}. Choose another {option('uds')}, in a "
            f"folder that this user may write to; a path has at most 107 bytes."
        ) from error
    return opened


def _remove_leftover(path: Path) -> None:
    """Remove the unused socket of a service that was killed.

    Raises:
        OSError: the path is not a socket, or a process answers on it.
    """
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise OSError(errno.EEXIST, "the path is not a socket")
        with socket(AF_UNIX, SOCK_STREAM) as probe:
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
            else:
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))

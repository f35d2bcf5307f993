"""API keys: which requests are answered, and how often.

`KeyRing` has the keys: those of ISOGON_API_KEYS, and those of a file, which may change
while the service runs. `Rates` counts requests against each key's rate, in memory that all
processes of the service share. `RequireKey` is the middleware that asks both.
"""

import fcntl
import hashlib
import hmac
import logging
import math
import mmap
import os
import re
import struct
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Self

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from isogon.errors import UsageError, option
from serving.api.problems import problem_response
from serving.models import Models
from serving.observability.metrics import Metrics
from serving.observability.requests import current_request
from serving.settings import FOR_MACHINES, Settings

_CHECK_EVERY = 1.0  # seconds between two checks of the file
_MOST = 1000  # keys in a file; every request is compared with each
_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
_LINE = re.compile(
    rf"(?P<name>{_NAME})\s+(?:sha256:(?P<digest>[0-9a-fA-F]{{64}})|(?P<key>(?!sha256:)[!-~]{{8,}}))"
    r"(?:\s+(?P<count>\d+(?:\.\d+)?)/(?P<unit>s|min|h|d)(?:\s+burst=(?P<burst>\d+))?)?"
)
_EXPECTED = (
    "expected `NAME KEY [RATE [burst=REQUESTS]]`, such as `app 3f9c2b71d05e 50/s`, with a "
    "key of 8 printable characters or more, or `sha256:` and the 64 digits of its hash"
)

_SLOT = struct.Struct("=32sd")  # digest of the key's name; when its bucket is full again
_SLOTS = 1024

# Without a key: probes and scrapers have none, and the page's files and the API's
# description tell nothing about the model.
_OPEN = FOR_MACHINES | {"/", "/openapi.json"}
_OPEN_FOLDER = "/page/"

_log = logging.getLogger("isogon.serving")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """A token bucket: `burst` requests at once, and `per_second` more each second."""

    per_second: float
    burst: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """A key's name, digest and rate; the key itself is not kept."""

    name: str  # in logs and metrics
    digest: bytes  # SHA-256
    rate: Rate | None  # None: no limit


class KeyRing:
    """The valid keys. The file is checked every second, and read when it has changed.

    If the changed file cannot be read or has an error, the keys stay as they were, and
    the log says why.

    Raises:
        UsageError: the file cannot be read or has an error at the start.
    """

    def __init__(self, settings: Settings) -> None:
        self._fixed = tuple(
            Key(name=f"key-{number}", digest=_digest(key.get_secret_value()), rate=None)
            for number, key in enumerate(settings.api_keys, 1)
        )
        self._path = settings.keys_file
        self._looked = time.monotonic()
        self._stamp: tuple[int, ...] | None = None
        self._keys = self._fixed
        if self._path is not None:
            self._stamp = _stamp(self._path)
            self._keys = self._fixed + keys_of(self._path)

    @classmethod
    def of(cls, settings: Settings) -> Self | None:
        """Return the operator's keys; None if requests need no key."""
        if not settings.api_keys and settings.keys_file is None:
            return None
        return cls(settings)

    def find(self, shown: Iterable[str]) -> Key | None:
        """Return the valid key among those shown; None if there is none.

        The digests of all keys are compared, each in constant time, so the time taken
        reveals nothing about a key.
        """
        self._look()
        found = None
        for digest in [_digest(key) for key in shown]:
            for key in self._keys:
                if hmac.compare_digest(key.digest, digest):
                    found = key
        return found

    def _look(self) -> None:
        now = time.monotonic()
        if self._path is None or now < self._looked + _CHECK_EVERY:
            return
        self._looked = now
        if (stamp := _stamp(self._path)) == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys = self._fixed + keys_of(self._path)
        except UsageError as error:
            _log.error("The keys stay as they were. %s", error)
        else:
            _log.info("Read %d keys of %s", len(self._keys), self._path)


def keys_of(path: Path) -> tuple[Key, ...]:
    """Return the keys of a file, one on each line; lines that begin with # are comments.

    Raises:
        UsageError: it cannot be read, or a line is wrong. Messages never quote a line.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UsageError(
            f"The keys of {path} cannot be read: {reason}. Name a file that this user may "
            f"read with {option('keys')} or ISOGON_KEYS_FILE."
        ) from error
    found: dict[str, Key] = {}
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        match = _LINE.fullmatch(text)
        if match is None:
            raise UsageError(f"{path}, line {number}: {_EXPECTED}.")
        key = _key(match)
        if key.name in found:
            raise UsageError(
                f"{path}, line {number}: an earlier line has the name {key.name!r}. Give "
                f"each key its own name, such as {key.name}-2."
            )
        found[key.name] = key
    if not 0 < len(found) <= _MOST:
        raise UsageError(
            f"{path} holds {len(found):,} keys; expected 1 to {_MOST:,}, one on each line. "
            f"To require no key, leave {option('keys')} and ISOGON_KEYS_FILE out."
        )
    return tuple(found.values())


def _key(match: re.Match[str]) -> Key:
    digest = match["digest"]
    rate = None
    if match["count"] is not None:
        per_second = float(match["count"]) / _SECONDS[match["unit"]]
        rate = Rate(
            per_second=max(per_second, 1e-9),
            burst=max(1, int(match["burst"] or round(per_second))),
        )
    return Key(
        name=match["name"],
        digest=bytes.fromhex(digest) if digest else _digest(match["key"]),
        rate=rate,
    )


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_ino, status.st_size, status.st_mtime_ns)


class Rates:
    """Token buckets by key, stored as in the generic cell rate algorithm (GCRA).

    A bucket is one number: the time at which it will be full again. The lock ends with its
    process, so a killed process does not block the others. Make one object before the
    processes are forked: they share its memory.
    """

    def __init__(self) -> None:
        size = _SLOT.size * _SLOTS
        if hasattr(os, "memfd_create"):
            self._file = os.memfd_create("isogon-rates")
        else:
            with tempfile.TemporaryFile() as file:
                self._file = os.dup(file.fileno())
        os.ftruncate(self._file, size)
        self._memory = mmap.mmap(self._file, size)
        self._places: dict[str, int] = {}  # where a key's bucket was last

    def wait(self, key: Key, now: float | None = None) -> float:
        """Take one request from a key's bucket; if it is empty, return the seconds to wait.

        Args:
            key: without a rate it never waits.
            now: by `time.monotonic`, which all processes of a machine share.
        """
        if key.rate is None:
            return 0.0
        moment = time.monotonic() if now is None else now
        each = 1 / key.rate.per_second
        with self._locked():
            place, full = self._bucket(key.name, moment)
            full = max(full, moment) + each
            missing = full - moment - key.rate.burst * each
            if missing > 1e-9:
                return missing
            self._write(place, _digest(key.name), full)
        return 0.0

    def _bucket(self, name: str, now: float) -> tuple[int, float]:
        """Return the place of a key's bucket and when it is full.

        The place of a full bucket is free for another key: a full bucket is the default.
        """
        digest = _digest(name)
        place = self._places.get(name)
        if place is not None and (found := self._read(place))[0] == digest:
            return place, found[1]
        free = 0
        for place in range(_SLOTS):
            held, full = self._read(place)
            if held == digest:
                break
            if full <= now:
                free = free or place + 1
        else:
            place, full = max(0, free - 1), 0.0
        self._places[name] = place
        return place, full

    def _read(self, place: int) -> tuple[bytes, float]:
        digest, full = _SLOT.unpack_from(self._memory, place * _SLOT.size)
        return digest, full

    def _write(self, place: int, digest: bytes, full: float) -> None:
        _SLOT.pack_into(self._memory, place * _SLOT.size, digest, full)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)


class RequireKey:
    """Answer 401 to a request without a valid key, and 429 to a key that asks too often.

    The body is not read before. A key is sent as `Authorization: Bearer KEY` or as
    `X-API-Key: KEY`; logs and metrics show its name.

    Args:
        app: what answers requests with a key.
        rates: of all keys, made before processes are forked.
    """

    def __init__(self, app: ASGIApp, rates: Rates) -> None:
        self._app = app
        self._rates = rates
        self._ring: KeyRing | None = None
        self._settings: Settings | None = None  # the settings that the ring was made of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on if it shows a valid key or needs none."""
        if scope["type"] != "http" or _is_open(scope["path"]):
            return await self._app(scope, receive, send)
        application: FastAPI = scope["app"]
        ring = self._ring_of(application.state.models)
        if ring is None:
            return await self._app(scope, receive, send)
        key = ring.find(_shown(Headers(scope=scope)))
        if key is None:
            return await _unknown()(scope, receive, send)
        if (request := current_request()) is not None:
            request.key = key.name
        wait = self._rates.wait(key)
        metrics: Metrics = application.state.metrics
        metrics.keys.labels(key.name, "refused" if wait else "accepted").inc()
        answering = _too_often(key, wait) if wait else self._app
        return await answering(scope, receive, send)

    def _ring_of(self, models: Models) -> KeyRing | None:
        if self._settings is not models.settings:
            self._settings = models.settings
            self._ring = KeyRing.of(models.settings)
        return self._ring


def _is_open(path: str) -> bool:
    return path in _OPEN or path.startswith(_OPEN_FOLDER)


def _shown(headers: Headers) -> list[str]:
    """Return every key that a request shows."""
    keys = headers.getlist("x-api-key")
    for value in headers.getlist("authorization"):
        scheme, _, key = value.partition(" ")
        if scheme.lower() == "bearer":
            keys.append(key.strip())
    return keys


def _unknown() -> Response:
    response = problem_response(
        HTTPStatus.UNAUTHORIZED,
        "This service needs an API key, and the request shows no valid one. "
        "Send `Authorization: Bearer KEY` or `X-API-Key: KEY`.",
    )
    response.headers["www-authenticate"] = "Bearer"
    return response


def _too_often(key: Key, wait: float) -> Response:
    assert key.rate is not None
    return problem_response(
        HTTPStatus.TOO_MANY_REQUESTS,
        f"The key {key.name!r} may send {key.rate.per_second:g} requests a second, and "
        f"{key.rate.burst} at once. Send the request again after {math.ceil(wait)} s.",
        retry_after=wait,
    )

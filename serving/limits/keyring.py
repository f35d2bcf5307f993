"""Who may ask, and how often: keys of the environment, and of a file that may change."""

import hashlib
import hmac
import logging
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from isogon.errors import UsageError
from serving.settings import Settings

_LOOKED_AT = 1.0  # seconds between two looks at the file
_MOST = 1000  # keys in a file; each costs every request a comparison
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

_log = logging.getLogger("isogon.serving")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """A token bucket: `burst` requests at once, and `per_second` more each second."""

    per_second: float
    burst: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """A key by its digest; the key itself is not kept."""

    name: str  # in logs and metrics
    digest: bytes  # SHA-256
    rate: Rate | None  # None: no limit


class KeyRing:
    """The keys in force. The file is looked at each second, and read when it changed.

    A file that can no longer be read, or is wrong, changes nothing: the keys before stay,
    and the log says why.

    Raises:
        UsageError: the file is not in order at the start.
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
        """Return the operator's keys; None where everybody may ask."""
        if not settings.api_keys and settings.keys_file is None:
            return None
        return cls(settings)

    def find(self, shown: Iterable[str]) -> Key | None:
        """Return the key that is among those shown, None if none is.

        Digests are compared, all of them, each in constant time: the time taken tells
        nothing of a key, nor of which one came close.
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
        if self._path is None or now < self._looked + _LOOKED_AT:
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
    """Return the keys of a file: one a line; a line that begins with `#` is a comment.

    Raises:
        UsageError: it cannot be read, or a line is wrong. No message repeats a line.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise UsageError(
            f"The keys of {path} cannot be read: {reason}. Name a file that this user may "
            f"read with --keys or ISOGON_KEYS_FILE."
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
                f"{path}, line {number}: the name {key.name!r} is there already. Give each "
                f"key a name of its own, such as {key.name}-2."
            )
        found[key.name] = key
    if not 0 < len(found) <= _MOST:
        raise UsageError(
            f"{path} holds {len(found):,} keys; expected 1 to {_MOST:,}, one a line. To "
            f"ask for no key, leave --keys and ISOGON_KEYS_FILE out."
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

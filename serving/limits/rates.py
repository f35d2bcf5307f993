"""How often each key has asked, in memory that all processes of the service share."""

import fcntl
import hashlib
import mmap
import os
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

from serving.limits.keyring import Key

_SLOT = struct.Struct("=32sd")  # digest of the key's name; when its bucket is full again
_SLOTS = 1024


class Rates:
    """Token buckets by key, as the generic cell rate algorithm keeps them.

    A bucket is one number: the moment at which it will be full again. It is written under
    a lock that ends with its process, so that one that is killed stops nobody. Make one
    before the processes are forked.
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
        self._places: dict[str, int] = {}  # where a key was found last

    def wait(self, key: Key, now: float | None = None) -> float:
        """Take one request from a key's bucket, or return the seconds until there is one.

        Args:
            key: with a rate or without.
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
            self._write(place, _named(key.name), full)
        return 0.0

    def _bucket(self, name: str, now: float) -> tuple[int, float]:
        """Return a key's place and when its bucket is full.

        A bucket that is full says nothing: its place is free for another key.
        """
        digest = _named(name)
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


def _named(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()

"""Check before the first step that all processes of a run have the same images and recipe.

Each process lists the images and reads the recipe itself. If they differed, processes would
wait for each other forever, or train on other images than the checkpoint says.
"""

import hashlib
import socket
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from lightning_fabric import Fabric

from distill.training.processes import in_common
from isogon.errors import UsageError
from isogon.images import Images

_SHOWN = 3  # names in a message
_REMEDY = (
    "All processes need the same images, recipe and models: copy what is missing, or "
    "let the nodes share a folder. No step has been made."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class _ProcessState:
    """What one process found; it is small, and sent to all processes."""

    process: str
    images: dict[str, tuple[int, str]]  # by source: how many, digest of names and sizes
    settings: dict[str, Any]

    @classmethod
    def of(
        cls, rank: int, sources: Mapping[str, Images], settings: Mapping[str, Any]
    ) -> "_ProcessState":
        versions = {f"version of {name}": version(name) for name in ("isogon", "torch")}
        return cls(
            process=f"process {rank} on {socket.gethostname()}",
            images={name: (len(each), _digest(each)) for name, each in sources.items()},
            settings=versions | {"places of images": [*sources]} | dict(settings),
        )


def require_agreement(
    fabric: Fabric, sources: Mapping[str, Images], settings: Mapping[str, Any]
) -> None:
    """Refuse processes with different images or settings; every process must call this.

    Args:
        fabric: the run's processes.
        sources: the images, by their names in the recipe.
        settings: other values that must be equal, by name; small.

    Raises:
        UsageError: a process has other images or settings than the first.
    """
    if fabric.world_size == 1:
        return
    states = _gathered(fabric, _ProcessState.of(fabric.global_rank, sources, settings))
    first = states[0]
    with in_common(fabric):
        # The images first: settings derive from them, and files are easier to act on.
        for rank, other in enumerate(states):
            for name, (count, digest) in first.images.items():
                theirs, other_digest = other.images.get(name, (count, digest))
                if digest == other_digest:
                    continue
                ours: Collection[str] = sources[name].names if name in sources else ()
                names: Collection[str] = fabric.broadcast(ours)
                how = _gathered(fabric, _how_different(ours, names))[rank]
                raise UsageError(
                    f"{other.process} found {theirs:,} images in {name}, {first.process} "
                    f"{count:,}: {how}. {_REMEDY}"
                )
        for other in states:
            if other.settings != first.settings:
                differing = _differing(first.settings, other.settings)
                raise UsageError(
                    f"{other.process} and {first.process} do not run the same: "
                    f"{'; '.join(differing)}. {_REMEDY}"
                )


def _digest(images: Images) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in images.names:
        digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
    for file in images.files():
        with suppress(OSError):  # a missing file is reported where images are read
            digest.update(b"%d\0" % file.stat().st_size)
    return digest.hexdigest()


def _differing(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    return [
        f"{key} is {theirs.get(key)!r} and {ours.get(key)!r}"
        for key in sorted(ours.keys() | theirs.keys())
        if ours.get(key) != theirs.get(key)
    ]


def _how_different(ours: Collection[str], first: Collection[str]) -> str:
    lacking, added = sorted({*first} - {*ours}), sorted({*ours} - {*first})
    found = [
        f"{what} {', '.join(names[:_SHOWN])}{_more(len(names) - _SHOWN)}"
        for what, names in (("it lacks", lacking), ("it alone has", added))
        if names
    ]
    return "; ".join(found) or "files of the same names have other sizes, or another order"


def _more(count: int) -> str:
    return f" and {count:,} more" if count > 0 else ""


def _gathered(fabric: Fabric, one: Any) -> list[Any]:
    found: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(found, one)
    return found

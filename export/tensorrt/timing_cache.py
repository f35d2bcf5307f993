"""Kernel timings of earlier builds, kept in a file."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any


def usual_timing_cache() -> Path | None:
    """Return where timings are kept for this user; None for one without a home."""
    try:
        return Path.home() / ".cache" / "isogon" / "tensorrt-timing.cache"
    except RuntimeError:
        return None


def load_timing_cache(config: Any, path: Path) -> None:
    """Give the build the timings in `path`, or an empty cache if they do not fit.

    They fit if they are of the same GPU and version; TensorRT judges that itself.
    """
    known = path.read_bytes() if path.is_file() else b""
    for content in (known, b""):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):
            return


def save_timing_cache(config: Any, path: Path) -> None:
    """Leave the build's timings in `path`, in one step: another build may be reading.

    Where nothing can be written they are lost; the engine is not.
    """
    cache = config.get_timing_cache()
    if cache is None:
        return
    pending = path.with_name(f".{path.name}.{os.getpid()}.pending")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        pending.write_bytes(bytes(cache.serialize()))
        pending.replace(path)

"""Whether the disk has room for features, asked before they are computed."""

import math
import shutil
from pathlib import Path

from rich.filesize import decimal
from rich.progress import Progress

from isogon.errors import UsageError


def require_room(
    folder: Path,
    name: str,
    shape: tuple[int, int, int, int],
    done: int,
    progress: Progress,
) -> None:
    """Say how large a store will be, and refuse it where the disk is too small.

    Args:
        folder: where the store is.
        name: of its file, which may exist in part.
        shape: images, views, tokens, width; float16.
        done: rows that need not be computed.
        progress: on whose console it is printed.

    Raises:
        UsageError: it needs more than is free.
    """
    images, views, tokens, width = shape
    size = math.prod(shape) * 2
    there = (folder / name).stat().st_size if done else 0
    free = shutil.disk_usage(folder).free
    product = f"{images:,} images x {views} views x {tokens} tokens x {width} values"
    if size - there > free:
        remedies = [f"name a `cache` on a larger disk (now {folder.parent})"]
        if tokens > 1:
            only = decimal(images * views * width * 2)
            remedies.insert(0, f'keep only `features = "embedding"` ({only})')
        if views > 1:
            remedies.insert(0, f"lower `views` ({decimal(size // views)} each)")
        raise UsageError(
            f"The teacher's features need {decimal(size - there)} at {folder}, "
            f"{decimal(free)} are free: {product} in float16. In [teacher], "
            f"{', or '.join(remedies)}."
        )
    progress.console.print(
        f"Teacher's features: {product}, {decimal(size)} in float16, at {folder} "
        f"({decimal(free)} free)"
        + (f"; {done:,} of {images * views:,} views are there already." if done else "."),
        markup=False,
        soft_wrap=True,
    )

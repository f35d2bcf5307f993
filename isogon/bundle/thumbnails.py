"""Small pictures of reference images with their embeddings, to show as neighbours.

They are a sample of the training images, or of a site's images, for the page of the
service. A bundle may have none.
"""

import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy
from jaxtyping import Float32, Int, UInt8
from PIL import Image
from safetensors import SafetensorError, safe_open

from isogon.bundle.bundle import Bundle
from isogon.bundle.detector_in_force import SITE_DETECTOR
from isogon.errors import BundleError
from isogon.ood.neighbours import nearest

THUMBNAILS = "thumbnails.safetensors"
THUMBNAIL = 96  # pixels, the longer side

_LABELS = "isogon.labels"  # of the header's metadata
_QUALITY = 88  # of JPEG: about 3 kB each


@dataclass(frozen=True, kw_only=True, slots=True)
class Thumbnails:
    """Reference images as JPEG, each with its embedding and, where known, its class."""

    images: tuple[bytes, ...]
    embeddings: Float32[np.ndarray, "n d"]  # unit norm, by the student
    labels: tuple[str, ...] | None

    @classmethod
    def of(
        cls,
        pixels: Iterable[UInt8[np.ndarray, "_ _ 3"]],
        embeddings: Float32[np.ndarray, "n d"],
        labels: Sequence[str] | None,
    ) -> "Thumbnails":
        """Make the thumbnails.

        Args:
            pixels: of each image, as the runner takes them.
            embeddings: of the same images, unit norm.
            labels: the name of each one's class; None without classes.
        """
        return cls(
            images=tuple(_jpeg(each) for each in pixels),
            embeddings=embeddings,
            labels=None if labels is None else tuple(labels),
        )

    def __len__(self) -> int:
        return len(self.images)

    def nearest(
        self, embeddings: Float32[np.ndarray, "b d"], k: int
    ) -> tuple[Int[np.ndarray, "b near"], Float32[np.ndarray, "b near"]]:
        """Return the indices of the k nearest, nearest first, and their cosines.

        Fewer than k if there are fewer images.
        """
        cosines = embeddings @ self.embeddings.T
        found = nearest(cosines, min(k, len(self)))
        values = np.take_along_axis(cosines, found, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        places = np.take_along_axis(found, order, axis=1)
        return places, np.take_along_axis(values, order, axis=1)

    def to_bytes(self) -> bytes:
        """Return the content of the file, as `isogon/bundle/README.md` specifies it."""
        lengths = [len(image) for image in self.images]
        arrays: dict[str, np.ndarray] = {
            "jpeg": np.frombuffer(b"".join(self.images), dtype=np.uint8),
            "ends": np.cumsum(lengths, dtype=np.int64),
            "embeddings": np.ascontiguousarray(self.embeddings),
        }
        metadata = None if self.labels is None else {_LABELS: json.dumps(self.labels)}
        return bytes(safetensors.numpy.save(arrays, metadata=metadata))

    @classmethod
    def in_force(cls, bundle: Bundle) -> "Thumbnails | None":
        """Return the site's thumbnails, else those of training, else None.

        Raises:
            BundleError: see `load`.
        """
        for name in (f"{SITE_DETECTOR}/{THUMBNAILS}", THUMBNAILS):
            if name in bundle:
                return cls.load(bundle.file(name), bundle.manifest.width)
        return None

    @classmethod
    def load(cls, path: Path, width: int) -> "Thumbnails":
        """Read the file that `to_bytes` wrote.

        Args:
            path: the file.
            width: of the model's embeddings.

        Raises:
            BundleError: the arrays do not fit together, or do not fit the model.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                stored = (file.metadata() or {}).get(_LABELS)
                jpeg, ends, embeddings = (
                    file.get_tensor(name) for name in ("jpeg", "ends", "embeddings")
                )
        except (OSError, SafetensorError) as error:
            raise _unreadable(path, str(error)) from error
        labels = None if stored is None else tuple(json.loads(stored))
        count = len(ends)
        if embeddings.shape != (count, width) or embeddings.dtype != np.float32:
            raise _unreadable(
                path,
                f"`embeddings` should be float32 [{count}, {width}], it is "
                f"{embeddings.dtype} {list(embeddings.shape)}",
            )
        if count < 1 or ends[-1] != len(jpeg) or (np.diff(ends, prepend=0) < 1).any():
            raise _unreadable(path, "`ends` does not divide `jpeg` into images")
        if labels is not None and len(labels) != count:
            raise _unreadable(path, f"{len(labels)} labels do not name {count} images")
        whole, starts = jpeg.tobytes(), [0, *ends[:-1]]
        return cls(
            images=tuple(whole[a:b] for a, b in zip(starts, ends, strict=True)),
            embeddings=embeddings,
            labels=labels,
        )


def _jpeg(pixels: UInt8[np.ndarray, "_ _ 3"]) -> bytes:
    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY, subsampling=0, optimize=True)
    return buffer.getvalue()


def _unreadable(path: Path, reason: str) -> BundleError:
    return BundleError(
        f"Expected thumbnails of reference images at {path}: {reason}. Restore the file "
        f"from a copy, or make the bundle again."
    )

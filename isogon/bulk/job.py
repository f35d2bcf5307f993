"""The job that every worker gets: which images, by which artifact, in which parts."""

from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

from isogon.images import Images

_SMALLEST, _LARGEST = 64, 2048  # images in a part
_PARTS = 256  # as many as that, where the bounds allow it


def isogon_version() -> str:
    """Return the version of Isogon that is installed here."""
    return version("isogon")


def part_size(images: int, batch: int) -> int:
    """Return how many images make a part: whole batches, a few seconds of work."""
    wanted = min(max(_SMALLEST, images // _PARTS), _LARGEST)
    return -(-wanted // batch) * batch


@dataclass(frozen=True, kw_only=True)
class Job:
    """Images to embed, by which artifact, and in which portions.

    Batches begin at multiples of `batch`, and parts at multiples of `part`, which is
    one of `batch`: so no image's batch depends on how the work is divided.
    """

    bundle: Path  # absolute; every worker opens the bundle there
    artifact: str
    fingerprint: str  # of the artifact; a worker refuses another one
    version: str  # of Isogon; likewise
    images: Images
    batch: int  # images per run of the model
    part: int  # images per part
    decoders: int  # threads of a worker that read and decode

    @cached_property
    def parts(self) -> range:
        """The numbers of all parts."""
        return range(-(-len(self.images) // self.part))

    def indices(self, part: int) -> range:
        """Return the images of a part."""
        return range(part * self.part, min((part + 1) * self.part, len(self.images)))

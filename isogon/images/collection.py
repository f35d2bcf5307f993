"""The interface of a source of images: images by index, with names and classes."""

import dataclasses
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from isogon.errors import ImageError, UsageError
from isogon.images.classes import as_unicode
from isogon.images.copies import SIDE, Thumbnail, thumbnail
from isogon.images.decoding import ImageLimits, decode
from isogon.images.preprocessing import Preprocessing
from isogon.images.readable_cache import ExaminationRecord, Examined
from isogon.images.sample_range import ASSUMED, Range
from isogon.progress import Progress, say

# With a larger share of unreadable images, the source itself must be wrong.
UNREADABLE_LIMIT = 0.1

# Local files are the user's own, so these limits only bound the memory.
LOCAL_LIMITS = ImageLimits(bytes=2**30, pixels=250_000_000)
SAMPLES = "samples.safetensors"  # `familiar`, `unfamiliar` uint8 [n, h, w, 3]
SAMPLE_LIMIT = 128
_SHOWN = 10  # faults in a message
_LOOKED_AT = 16  # images that `assumption` decodes
_EXAMPLES = 3  # names of skipped files in a message
# Files that are sources themselves: of paths, or of images.
SOURCES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".tar")
_PART = 4096  # images per round of decoding
Indices = Int[np.ndarray, " _"]  # indices of images, or the class of each image


@dataclass(frozen=True, kw_only=True, slots=True)
class PassedOver:
    """Files of a source that are not among its images, for one reason."""

    reason: str  # such as "hidden"
    count: int
    examples: tuple[str, ...]  # the first few names

    @classmethod
    def of(cls, names: Mapping[str, Sequence[str]]) -> "tuple[PassedOver, ...]":
        """Return one entry per reason, from the names of the files by reason."""
        return tuple(
            cls(reason=reason, count=len(found), examples=tuple(found[:_EXAMPLES]))
            for reason, found in names.items()
        )

    def __str__(self) -> str:
        more = ", …" if self.count > len(self.examples) else ""
        return f"{self.reason}: {self.count:,} ({', '.join(self.examples)}{more})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Images(ABC):
    """Images by index.

    Instances have no open files, so they may be pickled, forked and used by several
    threads.
    """

    where: str  # for messages: the folder, the archive, the list
    names: Sequence[str]  # unique and stable: an image's role depends on its name
    classes: tuple[str, ...]  # sorted, and Unicode; empty without classes
    class_numbers: Sequence[int]  # by image, into `classes`; unused without classes
    range: Range | None = None  # of deep grey samples, if stated; see `decode`
    class_words: str = ""  # how many classes there are, and where they come from
    passed_over: tuple[PassedOver, ...] = ()  # skipped files of the source

    @abstractmethod
    def image(self, index: int) -> Image.Image:
        """Return the decoded image, RGB and upright.

        Raises:
            UsageError: it cannot be read; the message names it.
        """

    def ranging(self, limits: Range | None) -> "Images":
        """Return the same images, with this range of deep grey samples."""
        return dataclasses.replace(self, range=limits)

    def __len__(self) -> int:
        return len(self.names)

    def pixels(
        self, indices: Indices, preprocessing: Preprocessing, progress: Progress
    ) -> UInt8[np.ndarray, "_ h w 3"]:
        """Return these images preprocessed, as runners take them."""
        tracked = progress.track(indices, description="Preprocessing")
        return np.stack([preprocessing.pixels(self.image(int(i))) for i in tracked])

    def labels(self, indices: Indices) -> Indices | None:
        """Return the class numbers, or None for images without classes."""
        return np.array(self.class_numbers)[indices] if self.classes else None

    def file(self, index: int) -> Path | None:
        """Return the file that contains an image; None if unknown."""
        return None

    @property
    def description(self) -> str:
        """One line: the number of images, the classes, and the skipped files."""
        count = len(self.names)
        said = f"{self.where}: {count:,} image{'' if count == 1 else 's'}"
        if self.class_words:
            said += f"; {self.class_words}"
        if self.passed_over:
            said += f". Skipped: {'; '.join(map(str, self.passed_over))}"
        return as_unicode(f"{said}.")

    def say(self, progress: Progress) -> None:
        """Print the description."""
        say(progress, self.description)

    def files(self) -> Iterable[Path]:
        """Yield the files that contain the images; nothing if unknown."""
        return ()

    def examined(self, progress: Progress, cache: Path | None = None) -> Examined:
        """Decode every image once; return the faults and a thumbnail of each image.

        Args:
            progress: where to show progress.
            cache: a folder for the result. It is read back, and nothing is decoded, as
                long as the files' names, sizes and modification times stay the same.
        """
        record = ExaminationRecord.at(
            cache, self.where, self.names, self.files(), reading=f"{self.range}"
        )
        with record.alone():  # one process decodes, the others wait
            known = record.load()
            if known is not None:
                return known
            faults: dict[str, str] = {}
            thumbnails = np.zeros((len(self), SIDE, SIDE), np.uint8)
            for index, found in enumerate(
                progress.track(self._read_all(), len(self), description="Reading images")
            ):
                if isinstance(found, str):
                    faults[self.names[index]] = found
                else:
                    thumbnails[index] = found
            examined = Examined(faults=faults, thumbnails=thumbnails)
            record.save(examined)
            return examined

    def readable(
        self,
        progress: Progress,
        *,
        limit: float = UNREADABLE_LIMIT,
        faults: Mapping[str, str] | None = None,
    ) -> Indices:
        """Return the indices of the images that decode; print which do not.

        Args:
            progress: where to show progress and the images left out.
            limit: the largest share of images that may be left out.
            faults: those of an earlier `examined`.

        Raises:
            UsageError: a larger share does not decode.
        """
        faults = self.examined(progress).faults if faults is None else faults
        if not faults:
            return np.arange(len(self))
        shown = "\n".join(f"  {fault}" for fault in list(faults.values())[:_SHOWN])
        more = f"\n  and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        summary = f"{len(faults)} of {len(self)} images cannot be read:\n{shown}{more}"
        if len(faults) > limit * len(self):
            raise UsageError(
                f"{summary}\nAt most a share of {limit:.3g} of {self.where} may be left "
                f"out. Repair or remove them and run again."
            )
        say(progress, f"{summary}\nThey are left out.")
        return np.array([i for i, name in enumerate(self.names) if name not in faults])

    def assumption(self, indices: Indices) -> str | None:
        """Return in a sentence what is assumed of the range of deep grey samples.

        A few evenly spaced images are decoded. None if nothing is assumed.

        Raises:
            UsageError: one of them cannot be read.
        """
        looked = [self.image(int(i)) for i in indices[spread(len(indices), _LOOKED_AT)]]
        largest = [image.info[ASSUMED] for image in looked if ASSUMED in image.info]
        if not largest:
            return None
        return (
            f"{self.where} has grey images of 16 bits that do not state their range: 0 is "
            f"taken as black and 65,535 as white. The largest sample in {len(largest)} of "
            f"them is {max(largest):,}; if they use fewer bits, state `range` under "
            f"[data], such as `range = [0, 4095]`."
        )

    def _read_all(self) -> Iterator[str | Thumbnail]:
        """Yield each image's thumbnail, or the reason why it cannot be read."""

        def read(index: int) -> str | Thumbnail:
            try:
                return thumbnail(self.image(index))
            except UsageError as error:
                return str(error)

        with ThreadPoolExecutor() as pool:  # in parts, because each task takes a kilobyte
            for start in range(0, len(self), _PART):
                yield from pool.map(read, range(start, min(start + _PART, len(self))))


def decoded(data: bytes, name: str, limits: Range | None) -> Image.Image:
    """Return the image in a file of the user's own.

    Args:
        data: the file.
        name: for messages.
        limits: the range of deep grey samples, if stated.

    Raises:
        UsageError: it does not decode; the message begins with `name`.
    """
    try:
        return decode(data, LOCAL_LIMITS, samples=limits)
    except ImageError as error:
        raise UsageError(f"{name} {error}") from error


def no_images(where: str, passed_over: Sequence[PassedOver]) -> UsageError:
    """Return the error for a source without images."""
    there = f" Skipped: {'; '.join(map(str, passed_over))}." if passed_over else ""
    names = [name for each in passed_over for name in each.examples]
    sources = [name for name in names if name.lower().endswith(SOURCES)]
    if any(name.lower().endswith(".arrow") for name in names):
        there += (
            " `datasets` saved these .arrow files. Write them as Parquet, with "
            f'`datasets.load_from_disk("{where}").to_parquet("images.parquet")`.'
        )
    elif sources:
        suffix = PurePath(sources[0]).suffix
        there += f" To read files such as {sources[0]}, write {where}/*{suffix}."
    return UsageError(
        f"{where} has no images; expected image files, such as .jpg or .png, with or "
        f"without class folders.{there}"
    )


def require_unique(names: Sequence[str], where: str) -> None:
    """Refuse repeated names, because the role of an image depends on its name."""
    if len(set(names)) == len(names):
        return
    twice = [name for name, count in Counter(names).items() if count > 1]
    raise UsageError(
        f"{where} names {len(twice)} images more than once: {', '.join(twice[:10])}. "
        f"List every image once."
    )


def spread(count: int, limit: int = SAMPLE_LIMIT) -> Int[np.ndarray, " _"]:
    """Return at most `limit` of the indices 0 … count - 1, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(count, limit)).astype(int))

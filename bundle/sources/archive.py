"""Images in tar archives, plain or as WebDataset's shards, read by their place.

timm's reader for tars keeps them open, which neither threads nor forked processes can
share, and its reader for WebDataset gives images in order only. So the places of the
images are listed here once, and each read opens the archive anew. What is listed and
which class it has agrees with timm (tested), except that WebP counts as well.
"""

import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from bundle.collection import Images, Indices, decoded, numbered, require_unique
from bundle.errors import UsageError
from bundle.images import SUFFIXES

_LISTED = SUFFIXES | {".cls"}
_LONGEST_CLASS = 1024  # bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class _Member:
    """A regular file in an archive."""

    archive: int  # the number of the outermost archive
    name: str  # below the names of the archives it is nested in
    offset: int  # bytes, of its content in that archive
    size: int  # bytes

    @property
    def key(self) -> str:
        """What WebDataset joins files by: the path up to the file name's first dot."""
        folder, slash, name = self.name.rpartition("/")
        return f"{folder}{slash}{name.partition('.')[0]}"


@dataclass(frozen=True, kw_only=True, slots=True)
class TarImages(Images):
    """The images of one tar archive, or of several."""

    archives: tuple[Path, ...]
    archive_numbers: Indices  # by image
    offsets: Indices  # bytes, by image
    sizes: Indices  # bytes, by image

    @classmethod
    def index(cls, archives: Sequence[Path], *, where: str) -> "TarImages":
        """List the images of these archives; hidden files are passed over.

        An image's class is what its `.cls` file says, where there are such files, else
        the folder, or the archive inside the archive, that it lies in. With several
        archives the name of each stands before the names of its images.

        Raises:
            UsageError: an archive is damaged or compressed, there is no image, two
                images have one name, or only some of them have a `.cls` file.
        """
        members = [
            member
            for number, archive in enumerate(archives)
            for member in _members_of(archive, number)
        ]
        stated = _stated_classes(archives, members)
        images = [
            member for member in members if _is_image(member, webdataset=bool(stated))
        ]
        if not images:
            raise UsageError(
                f"{where} holds no images; expected files ending in "
                f"{', '.join(sorted(SUFFIXES))}."
            )
        several = len(archives) > 1
        names = [
            f"{archives[image.archive].stem}/{image.name}" if several else image.name
            for image in images
        ]
        require_unique(names, where)
        classes, numbers = numbered(_labels(images, stated, where))
        return cls(
            where=where,
            names=tuple(names),
            classes=classes,
            class_numbers=numbers,
            archives=tuple(archives),
            archive_numbers=np.array([image.archive for image in images]),
            offsets=np.array([image.offset for image in images]),
            sizes=np.array([image.size for image in images]),
        )

    def image(self, index: int) -> Image.Image:
        """Return the decoded image, RGB and upright.

        Raises:
            UsageError: it cannot be read; the message names archive and image.
        """
        archive = self.file(index)
        name = f"{archive}: {self.names[index]}"
        try:
            data = _read(archive, int(self.offsets[index]), int(self.sizes[index]))
        except OSError as error:
            raise UsageError(f"{name} cannot be read: {error}.") from error
        return decoded(data, name, self.range)

    def file(self, index: int) -> Path:
        """Return the archive that holds an image."""
        return self.archives[int(self.archive_numbers[index])]

    def files(self) -> Iterable[Path]:
        """Yield the archives."""
        return self.archives


def _read(archive: Path, offset: int, size: int) -> bytes:
    with archive.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def _is_image(member: _Member, *, webdataset: bool) -> bool:
    """Tell images from other files, and in WebDataset also from `0001.mask.png`."""
    if PurePosixPath(member.name).suffix.lower() not in SUFFIXES:
        return False
    return not webdataset or "." not in member.name.removeprefix(member.key)[1:]


def _stated_classes(
    archives: Sequence[Path], members: list[_Member]
) -> dict[tuple[int, str], str]:
    """Return what the `.cls` files say, by archive and WebDataset's key."""
    found = {}
    for member in members:
        if member.name == f"{member.key}.cls" and member.size <= _LONGEST_CLASS:
            text = _read(archives[member.archive], member.offset, member.size)
            found[member.archive, member.key] = text.decode("utf-8", "replace").strip()
    return found


def _labels(
    images: list[_Member], stated: dict[tuple[int, str], str], where: str
) -> list[str]:
    if not stated:
        return [PurePosixPath(image.name).parent.name for image in images]
    missing = [i.name for i in images if (i.archive, i.key) not in stated]
    if missing:
        raise UsageError(
            f"{where} has `.cls` files, but not for {len(missing)} of its {len(images)} "
            f"images: {', '.join(missing[:10])}. Give every image one, or none."
        )
    return [stated[image.archive, image.key] for image in images]


def _members_of(archive: Path, number: int) -> Iterator[_Member]:
    try:
        with tarfile.open(archive, mode="r:") as opened:
            for name, offset, size in _files(opened, PurePosixPath(), 0):
                yield _Member(archive=number, name=name, offset=offset, size=size)
    except (tarfile.TarError, OSError) as error:
        raise UsageError(
            f"{archive} is not an intact, uncompressed tar archive: {error}. Make it "
            f"again, for example with `tar --create --file {archive.name} FOLDER`."
        ) from error


def _files(
    opened: tarfile.TarFile, above: PurePosixPath, base: int
) -> Iterator[tuple[str, int, int]]:
    """Yield name, offset and size of images and classes, also of archives inside.

    Args:
        opened: the archive.
        above: goes before the names.
        base: bytes, where the archive begins in the outermost one.
    """
    while (member := opened.next()) is not None:
        opened.members = []  # type: ignore[attr-defined]  # else a kilobyte for each
        path = above / member.name
        if not member.isreg() or any(part.startswith(".") for part in path.parts):
            continue
        offset = base + member.offset_data
        if path.suffix.lower() == ".tar":
            with tarfile.open(fileobj=opened.extractfile(member), mode="r:") as inner:
                yield from _files(inner, path.with_suffix(""), offset)
        elif path.suffix.lower() in _LISTED:
            yield path.as_posix(), offset, member.size
    _require_end(opened)


def _require_end(opened: tarfile.TarFile) -> None:
    """Refuse an archive whose listing broke off: tarfile stops there without a word."""
    assert opened.fileobj is not None
    opened.fileobj.seek(opened.offset)
    if opened.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError(f"damaged at byte {opened.offset:,}")

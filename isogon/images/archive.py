"""Images in tar archives, plain or WebDataset's shards, read by their offset.

timm's reader for tars keeps them open, which threads and forked processes cannot share;
its reader for WebDataset gives images only in order. So the offsets of the images are
listed here once, and each read opens the archive again. The list and the classes agree
with timm's (tested) for archives of JPEG and PNG with classes by folder.
"""

import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from isogon.errors import UsageError
from isogon.images.classes import (
    ClassChoice,
    Classes,
    classes_by_folder,
    classes_by_label,
    column_sentence,
    json_values,
    label_column,
    label_text,
)
from isogon.images.collection import (
    Images,
    Indices,
    PassedOver,
    decoded,
    no_images,
    require_unique,
)
from isogon.images.folder import HIDDEN, OTHER, is_hidden
from isogon.images.formats import HEAD, SUFFIXES, image_format

_LONGEST = {".cls": 1024, ".json": 2**20}  # bytes of a file with a sample's class
_FURTHER = "further images of a sample"
_NUMBER = (1, 2, 4, 8)  # bytes of a class that is stored as a binary number

# Which of several images of a sample counts: by the name's end, the first that is there.
_PREFERRED = ("", "image", "img", "rgb", "photo", "picture", "input", "color", "colour")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Member:
    """A regular file in an archive."""

    archive: int  # the number of the outermost archive
    name: str  # below the names of the archives it is nested in
    offset: int  # bytes, of its content in that archive
    size: int  # bytes
    is_image: bool  # else a file with the class of an image

    @property
    def key(self) -> str:
        """The key by which WebDataset groups files: the path up to the name's first dot."""
        folder, slash, name = self.name.rpartition("/")
        return f"{folder}{slash}{name.partition('.')[0]}"


# The fields of the files beside an image: by archive and WebDataset's key, then by the key
# of its JSON, or `cls`.
_Stated = dict[tuple[int, str], dict[str, object]]


@dataclass(frozen=True, kw_only=True, slots=True)
class TarImages(Images):
    """The images of one tar archive, or of several."""

    archives: tuple[Path, ...]
    archive_numbers: Indices  # by image
    offsets: Indices  # bytes, by image
    sizes: Indices  # bytes, by image

    @classmethod
    def index(
        cls, archives: Sequence[Path], *, where: str, choice: ClassChoice | None = None
    ) -> "TarImages":
        """List the images of these archives; hidden and other files are counted.

        An image's class is in its `.cls` file, or in its `.json` file under a key such as
        `label`. Without such files, it is the folder of the image, or the archive inside
        the archive. With several archives, an image's name begins with its archive's name.

        Args:
            archives: plain tars.
            where: the archives, for messages.
            choice: a key of the `.json` files, `cls`, or the level of folders.

        Raises:
            UsageError: an archive is damaged or compressed, there is no image, two
                images have one name, or only some of them have a label.
        """
        choice = choice or ClassChoice()
        passed_over: dict[str, list[str]] = {}
        members = [
            member
            for number, archive in enumerate(archives)
            for member in _members_of(archive, number, passed_over)
        ]
        stated = _stated(archives, members)
        images = []
        for member in members:
            if member.is_image:
                images.append(member)
        if stated:
            images = _one_of_each_sample(images, stated, passed_over)
        if not images:
            raise no_images(where, PassedOver.of(passed_over))
        several = len(archives) > 1
        names = [
            f"{archives[image.archive].stem}/{image.name}" if several else image.name
            for image in images
        ]
        require_unique(names, where)
        classes = _classes(images, stated, choice, where)
        return cls(
            where=where,
            names=tuple(names),
            classes=classes.names,
            class_numbers=classes.numbers,
            class_words=classes.sentence,
            passed_over=PassedOver.of(passed_over),
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


def _members_of(
    archive: Path, number: int, passed_over: dict[str, list[str]]
) -> Iterator[_Member]:
    try:
        with tarfile.open(archive, mode="r:") as opened:
            yield from _files(opened, PurePosixPath(), 0, number, passed_over)
    except (tarfile.TarError, OSError) as error:
        raise UsageError(
            f"{archive} is not an intact, uncompressed tar archive: {error}. Make it "
            f"again, for example with `tar --create --file {archive.name} FOLDER`."
        ) from error


def _files(
    opened: tarfile.TarFile,
    above: PurePosixPath,
    base: int,
    number: int,
    passed_over: dict[str, list[str]],
) -> Iterator[_Member]:
    """Yield images and the files with their classes, also those of nested archives.

    Args:
        opened: the archive.
        above: the prefix of the names.
        base: the offset of the archive in the outermost one, in bytes.
        number: of the outermost archive.
        passed_over: receives the names of skipped files, by reason.
    """
    while (member := opened.next()) is not None:
        opened.members = []  # type: ignore[attr-defined]  # else a kilobyte per member
        path = above / member.name
        if not member.isreg():
            continue
        name, suffix = path.as_posix(), path.suffix.lower()
        offset = base + member.offset_data
        if any(map(is_hidden, path.parts)):
            passed_over.setdefault(HIDDEN, []).append(name)
        elif suffix == ".tar":
            with tarfile.open(fileobj=opened.extractfile(member), mode="r:") as inner:
                inside = path.with_suffix("")
                yield from _files(inner, inside, offset, number, passed_over)
        elif suffix in _LONGEST or suffix in SUFFIXES or _begins_like_image(opened, member):
            yield _Member(
                archive=number,
                name=name,
                offset=offset,
                size=member.size,
                is_image=suffix not in _LONGEST,
            )
        else:
            passed_over.setdefault(OTHER, []).append(name)
    _require_end(opened)


def _begins_like_image(opened: tarfile.TarFile, member: tarfile.TarInfo) -> bool:
    assert opened.fileobj is not None
    opened.fileobj.seek(member.offset_data)  # `next` seeks by itself
    return image_format(opened.fileobj.read(min(HEAD, member.size))) is not None


def _require_end(opened: tarfile.TarFile) -> None:
    """Refuse a damaged archive: tarfile stops at the damage without an error."""
    assert opened.fileobj is not None
    opened.fileobj.seek(opened.offset)
    if opened.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError(f"damaged at byte {opened.offset:,}")


def _stated(archives: Sequence[Path], members: list[_Member]) -> _Stated:
    found: _Stated = {}
    for member in members:
        suffix = PurePosixPath(member.name).suffix.lower()
        if not 0 < member.size <= _LONGEST.get(suffix, 0):
            continue
        data = _read(archives[member.archive], member.offset, member.size)
        if suffix == ".cls":
            said: dict[str, object] = {"cls": _class_text(data)}
        else:
            said = _json_fields(data)
        found.setdefault((member.archive, member.key), {}).update(said)
    return found


def _one_of_each_sample(
    images: list[_Member], stated: _Stated, passed_over: dict[str, list[str]]
) -> list[_Member]:
    """Return one image of each sample that has a class, and note its others.

    `0001.mask.png` and `0001.jpg` are parts of the sample `0001`. The plain name counts,
    or the one that says `image`; else the first in the archive.
    """

    def rank(image: _Member) -> int:
        part = image.name.removeprefix(image.key)[1:].lower().rpartition(".")[0]
        return _PREFERRED.index(part) if part in _PREFERRED else len(_PREFERRED)

    best: dict[tuple[int, str], _Member] = {}
    for image in images:
        sample = image.archive, image.key
        if sample not in best or rank(image) < rank(best[sample]):
            best[sample] = image
    kept = []
    for image in images:
        sample = image.archive, image.key
        if best[sample] is image or sample not in stated:
            kept.append(image)
        else:
            passed_over.setdefault(_FURTHER, []).append(image.name)
    return kept


def _class_text(data: bytes) -> str:
    """Return the class in a `.cls` file: text, or a binary number."""
    text = data.decode("utf-8", "replace").strip()
    if len(data) in _NUMBER and not text.isprintable():
        return str(int.from_bytes(data, "little"))
    return text


def _json_fields(data: bytes) -> dict[str, object]:
    """Return the values of a JSON object; of objects inside, by keys such as `a.label`."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return dict(json_values(document)) if isinstance(document, dict) else {}


def _classes(
    images: list[_Member], stated: _Stated, choice: ClassChoice, where: str
) -> Classes:
    names = [image.name for image in images]
    fields = [stated.get((image.archive, image.key), {}) for image in images]
    keys = tuple(dict.fromkeys(key for each in fields for key in each))
    if choice.level is not None or not keys:
        if not keys:
            choice.require_no_column(where)
        return classes_by_folder(names, choice.level, where)

    def labels(key: str) -> list[str]:
        return [label_text(each.get(key), key) for each in fields]

    column = "cls" if choice.column is None and "cls" in keys else None
    column = column or label_column(keys, choice, where, labels)
    words = column_sentence(column, keys, used=())
    if column is None:
        return replace(
            by_folder := classes_by_folder(names, None, where),
            origin=f"{by_folder.origin}; {words}",
        )
    found = labels(column)
    missing = [name for name, label in zip(names, found, strict=True) if not label]
    if missing:
        raise UsageError(
            f"{where} has `{column}` for some images, but not for {len(missing)} of its "
            f"{len(images)}: {', '.join(missing[:10])}. Give all images one, or none."
        )
    return classes_by_label(found, len(images), words, where)


def _read(archive: Path, offset: int, size: int) -> bytes:
    with archive.open("rb") as file:
        file.seek(offset)
        return file.read(size)

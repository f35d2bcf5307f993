"""Images named by a list: a table with a column of paths, or plain text.

Where no path leads to a file, the files are searched below the list: `0a1b` with
`train/0a1b.jpg` beside it, as Kaggle's lists have it, and without the folders that all
paths begin with, such as those of another machine. For a list in a folder of lists, such
as Food-101's `meta`, they are searched below the folder above.
"""

import os
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path, PurePath, PurePosixPath
from urllib.parse import urlsplit
from urllib.request import url2pathname

from isogon.errors import UsageError
from isogon.images.classes import (
    ClassChoice,
    classes_by_folder,
    classes_by_label,
    column_sentence,
    label_column,
    one_hot_labels,
)
from isogon.images.collection import require_unique
from isogon.images.folder import ImageFolder
from isogon.images.formats import SUFFIXES
from isogon.images.tables import ENDS, HINT, Table, table

# Folders of lists; the images are beside them.
_OF_LISTS = {
    *("meta", "metadata", "annotations", "annotation", "lists", "splits", "labels"),
    *("imagesets", "main", "cls-loc"),
}


def listed_images(
    files: Sequence[Path], *, where: str, choice: ClassChoice | None = None
) -> ImageFolder:
    """Return the images of lists: CSV, TSV or JSON, or text with a path on every line.

    Args:
        files: the lists, all with the same columns.
        where: the lists, for messages.
        choice: which column has the classes, or which level of folders.

    Raises:
        UsageError: a list cannot be read, or `images_at` refuses it.
    """
    tables = [table(file) for file in files]
    columns = tables[0].columns
    for file, one in zip(files, tables, strict=True):
        if one.columns != columns:
            raise UsageError(
                f"{file} has the columns {', '.join(one.columns)}, but {files[0]} has "
                f"{', '.join(columns)}. Give all lists the same columns."
            )
    whole = Table(columns=columns, rows=[*chain(*(one.rows for one in tables))])
    path = whole.path
    if path is None:
        raise UsageError(
            f"{files[0]} has no column of paths, such as `path`, only "
            f"{', '.join(columns) or 'none'}. {HINT}"
        )
    paths = []
    for file, one in zip(files, tables, strict=True):
        for number, text in enumerate(one.texts(path), 1):
            if not text:
                raise UsageError(f"{file}: image {number} has no path in `{path}`. {HINT}")
            paths.append((file, text))
    choice = choice or ClassChoice()
    others = [each for each in columns if each != path]
    column = label_column(others, choice, where, whole.texts)
    labels = None if column is None else whole.texts(column)
    origin = tables[0].origin or column_sentence(column, columns, used=(path,))
    if labels is None and choice.level is None:
        hot = one_hot_labels(others, whole.rows)
        if hot is not None:
            labels, origin = hot
    return images_at(
        paths,
        labels,
        origin,
        where=where,
        level=choice.level,
    )


def images_at(
    paths: Sequence[tuple[Path, str]],
    labels: Sequence[str | None] | None,
    origin: str,
    *,
    where: str,
    level: int | None = None,
) -> ImageFolder:
    """Return images that are separate files; their names are the normalised paths.

    A listed file that does not exist counts as unreadable.

    Args:
        paths: the list that names an image, and the image's path: absolute, or
            relative to the list's folder.
        labels: their classes; None if no column has labels.
        origin: where the labels are from, or that there are none, in words.
        where: the lists, for messages.
        level: of the folders whose names are the classes, instead of labels.

    Raises:
        UsageError: nothing is listed, an image is listed twice, or only some have a label.
    """
    if not paths:
        raise UsageError(f"{where} lists no images. {HINT}")
    root = paths[0][0].parent
    names = tuple(_name(file, path, root) for file, path in paths)
    written = names
    if not any((root / name).exists() for name in names):
        root = _root(root)
        names = _searched(names, root, where)
    require_unique(names, where)
    there = next((n for n, name in enumerate(names) if (root / name).exists()), None)
    if there is None:
        raise UsageError(
            f"None of the {len(names):,} files that {where} lists is there, such as "
            f"{names[0]}. A path is absolute, or relative to the list's folder."
        )
    if names != written or root != paths[0][0].parent:
        origin += f"; files were searched below {root}: "
        origin += f"{written[there]} is {names[there]}"
    if level is not None:
        classes = classes_by_folder(names, level, where)
    else:
        if labels is None and (count := len(classes_by_folder(names, None, where).names)):
            origin += f"; the folders would give {count:,}, with `classes` in [data]"
        classes = classes_by_label(labels, len(names), origin, where)
    return ImageFolder(
        where=where,
        names=names,
        classes=classes.names,
        class_numbers=classes.numbers,
        class_words=classes.sentence,
        root=root,
    )


def _name(file: Path, path: str, root: Path) -> str:
    """Return a path of a list as a name, relative to `root` or absolute."""
    folder = file.parent
    if path.startswith("file:"):
        path = url2pathname(urlsplit(path).path)
    if "://" in path:
        raise UsageError(
            f"{file} lists {path}, but images are read from this machine's disk. Copy them "
            f"here, and list their files."
        )
    if "\\" in path and os.sep == "/" and not (folder / path).exists():
        path = path.replace("\\", "/")  # written by Windows
    if not Path(path).is_absolute():
        path = os.path.relpath(folder / path, root)
    name = PurePath(os.path.normpath(path)).as_posix()
    if not name.isascii() and not (root / name).exists():
        # macOS writes names with separate accents, others write them with letters.
        for form in ("NFC", "NFD"):
            other = unicodedata.normalize(form, name)
            if (root / other).exists():
                return other
    return name


def _searched(names: Sequence[str], root: Path, where: str) -> tuple[str, ...]:
    """Return each name as the one file below `root` whose path ends so, if there is one.

    A name without an image's suffix is found with one.

    If nothing is found, leading folders that all names share are left out, one by one. The
    case of a suffix does not matter.

    Raises:
        UsageError: two files end as a name does.
    """
    by_stem: dict[str, list[PurePosixPath]] = {}
    for folder, _, files in os.walk(root):
        for file in files:
            if file.lower().endswith(ENDS):
                path = PurePosixPath(os.path.relpath(Path(folder, file), root))
                by_stem.setdefault(path.stem, []).append(path)
    paths = [PurePosixPath(name) for name in names]
    levels = list(zip(*(path.parts[:-1] for path in paths), strict=False))
    alike = [len(set(level)) == 1 for level in levels]
    shared = alike.index(False) if False in alike else len(alike)
    for left_out in range(shared + 1):
        wanted = [PurePosixPath(*path.parts[left_out:]) for path in paths]
        ends = [_ending(by_stem, each) for each in wanted]
        if any(ends):
            break
    found = []
    for name, several in zip(names, ends, strict=True):
        if len(several) > 1:
            raise UsageError(
                f"{where} lists {name}, which may be {several[0]} or {several[1]}. Write "
                f"the folder into the list, or put the list into the folder that is meant."
            )
        found.append(str(several[0]) if several else name)
    return tuple(found)


def _root(folder: Path) -> Path:
    """Return the folder of a data set, of which a list's folder is a part."""
    return next(
        above
        for above in (folder.resolve(), *folder.resolve().parents)
        if above.name.casefold() not in _OF_LISTS
    )


def _ending(
    by_stem: Mapping[str, Sequence[PurePosixPath]], wanted: PurePosixPath
) -> list[PurePosixPath]:
    """Return the files whose path ends as `wanted` does, which may lack the suffix."""
    whole = wanted.suffix.lower() in SUFFIXES
    end = f"/{wanted.with_suffix('') if whole else wanted}"
    suffix = wanted.suffix.lower()
    return [
        path
        for path in by_stem.get(wanted.stem if whole else wanted.name, ())
        if f"/{path.with_suffix('')}".endswith(end)
        and (not whole or path.suffix.lower() == suffix)
    ]

"""Images named by a list: CSV, TSV or JSONL with a column of paths, or plain text.

Plain text has a path on every line, or a path and a label (`a/0.jpg 3`), as the lists of
ImageNet and of Caffe do. With a heading it is a table, and a table without a heading is
read like such text. Where no path leads to a file, the files are searched below the list:
`0a1b` with `train/0a1b.jpg` beside it, as Kaggle's lists have it, and without the folders
that all paths begin with, such as those of another machine.
"""

import csv
import io
import json
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePath, PurePosixPath
from urllib.parse import urlsplit
from urllib.request import url2pathname

from isogon.errors import UsageError
from isogon.images.classes import (
    LABELS,
    ClassChoice,
    classes_by_folder,
    classes_by_label,
    column_named,
    column_sentence,
    label_column,
    label_text,
    one_hot_labels,
)
from isogon.images.collection import require_unique
from isogon.images.folder import ImageFolder
from isogon.images.formats import SUFFIXES

LISTS = {".csv", ".tsv", ".jsonl", ".ndjson", ".txt"}

# Names of columns of paths; the first that is present counts. Case and blanks are ignored.
PATHS = (
    *("path", "image_path", "img_path", "file_path", "filepath", "filename", "file_name"),
    *("relative_path", "image_file", "file", "image", "img", "image_name", "name"),
    *("image_filename", "img_name", "img_file", "fname", "paths", "filenames", "uri"),
    *("images", "photo", "picture", "image_id", "img_id", "id"),
)

_HINT = "Expected a heading with a column `path` and, if there are classes, `label`."
_DELIMITERS = (",", "\t", ";", "|")

_DELIMITER = re.compile(r"sep=(.)\r?\n", re.IGNORECASE)

# A path that ends with an image's suffix, followed by a label.
_ENDS = tuple(SUFFIXES)
_LABELLED = re.compile(
    rf'"?(.+(?:{"|".join(map(re.escape, sorted(SUFFIXES, reverse=True)))}))"?'
    r"(?:\s*[,;|]\s*|\s+)(\S.*)",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Table:
    """The content of a list: one row per image."""

    columns: tuple[str, ...]
    rows: Sequence[Mapping[str, str]]
    origin: str | None = None  # where the labels are from, if there is no heading


def listed_images(
    files: Sequence[Path], *, where: str, choice: ClassChoice | None = None
) -> ImageFolder:
    """Return the images of lists: CSV, TSV or JSONL, or text with a path on every line.

    Args:
        files: the lists, all with the same columns.
        where: the lists, for messages.
        choice: which column has the classes, or which level of folders.

    Raises:
        UsageError: a list cannot be read, or `images_at` refuses it.
    """
    tables = [_table(file) for file in files]
    columns = tables[0].columns
    for file, table in zip(files, tables, strict=True):
        if table.columns != columns:
            raise UsageError(
                f"{file} has the columns {', '.join(table.columns)}, but {files[0]} has "
                f"{', '.join(columns)}. Give all lists the same columns."
            )
    path = column_named(columns, PATHS)
    if path is None:
        raise UsageError(
            f"{files[0]} has no column of paths, such as `path`, only "
            f"{', '.join(columns) or 'none'}. {_HINT}"
        )
    rows = []
    for file, table in zip(files, tables, strict=True):
        for number, row in enumerate(table.rows, 1):
            if not row[path]:
                raise UsageError(f"{file}: image {number} has no path in `{path}`. {_HINT}")
            rows.append((file, row))
    choice = choice or ClassChoice()
    others = [each for each in columns if each != path]
    column = label_column(others, choice, where)
    labels = None if column is None else [row[column] for _, row in rows]
    origin = tables[0].origin or column_sentence(column, columns, used=(path,))
    if labels is None and choice.level is None:
        hot = one_hot_labels(others, [row for _, row in rows])
        if hot is not None:
            labels, origin = hot
    return images_at(
        [(file, row[path]) for file, row in rows],
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
        raise UsageError(f"{where} lists no images. {_HINT}")
    root = paths[0][0].parent
    names = tuple(_name(file, path, root) for file, path in paths)
    if not any((root / name).exists() for name in names):
        written, names = names, _searched(names, root, where)
        for old, new in zip(written, names, strict=True):
            if old != new:
                origin += f"; files were searched below {root}: {old} is {new}"
                break
    require_unique(names, where)
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
            if file.lower().endswith(_ENDS):
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


def _table(file: Path) -> _Table:
    suffix = file.suffix.lower()
    try:
        data = file.read_bytes()
        text = data.decode(_encoding(data)).replace("\0", "\n")  # as `find -print0` ends
        if suffix == ".txt":
            return _plain(text, file)
        if suffix in (".jsonl", ".ndjson"):
            return _json_lines(text, file)
        return _delimited(text, "\t" if suffix == ".tsv" else ",", file)
    except (OSError, UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
        expected = "Expected a path on every line." if suffix == ".txt" else _HINT
        if isinstance(error, UnicodeDecodeError):
            expected += " Save it as UTF-8; in Excel that is the type `CSV UTF-8`."
        raise UsageError(f"{file} cannot be read as a list: {error}. {expected}") from error


def _encoding(data: bytes) -> str:
    """Return UTF-8, or UTF-16 by its mark (Excel's "Unicode text") or by its zeros."""
    mark = data[:4]
    if len(mark) < 4 or b"\0\0" in mark:
        return "utf-8-sig"
    if mark[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    if mark[1::2] == b"\0\0":
        return "utf-16-le"
    return "utf-16-be" if mark[::2] == b"\0\0" else "utf-8-sig"


def _plain(text: str, file: Path) -> _Table:
    """Read a path, or a path and a label, per line; with a heading, read a table."""
    lines = [line for line in text.replace("\r\n", "\n").split("\n") if line.strip()]
    heading = re.split(r"[,\t;| ]+", lines[0].strip("# ")) if lines else []
    if len(heading) > 1 and column_named(heading, PATHS) and column_named(heading, LABELS):
        usual = next((each for each in _DELIMITERS if each in lines[0]), " ")
        return _delimited(text, usual, file)
    rows = []
    for line in lines:
        if (file.parent / line).exists():
            rows.append({"path": line, "label": ""})
        elif not line.startswith("#"):
            rows.append(_path_and_label(line.strip(), file.parent))
    if not any(row["label"] for row in rows):
        return _Table(columns=("path",), rows=[{"path": row["path"]} for row in rows])
    origin = "from the text after the path on each line"
    return _Table(columns=("path", "label"), rows=rows, origin=origin)


def _path_and_label(line: str, folder: Path) -> dict[str, str]:
    """Split a line that is not the path of a file; the label is usually after the path."""
    first, _, rest = line.partition(" ")
    if line.lower().endswith(_ENDS):
        before = rest and (folder / rest.strip()).exists()
        return {"path": rest.strip() if before else line, "label": first if before else ""}
    found = _LABELLED.fullmatch(line)
    if found is None:
        return {"path": line, "label": ""}
    return {"path": found[1], "label": _unquoted(found[2])}


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text


def _delimited(text: str, usual: str, file: Path) -> _Table:
    """Read a table, with a heading or without; the first line tells the delimiter."""
    text = _without_comments(text)
    if stated := _DELIMITER.match(text):  # as Excel reads and writes it
        usual, text = stated[1], text[stated.end() :]
    delimiter = max((usual, *_DELIMITERS), key=text.partition("\n")[0].count)
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        strict=True,
        skipinitialspace=True,
    )
    first = tuple(field.strip() for field in next(reader, []))
    headless = _headless(first, file)
    columns = headless or first
    twice = sorted({each for each in columns if each and columns.count(each) > 1})
    if twice:
        raise UsageError(
            f"{file} has several columns named {', '.join(twice)}. Give each its own name."
        )
    rows = []
    for fields in chain([first] if headless else [], reader):
        if not any(map(str.strip, fields)):
            continue
        if len(fields) == len(columns) + 1 and not fields[-1]:
            fields = fields[:-1]  # the line ends with a delimiter
        if len(fields) != len(columns):
            raise UsageError(
                f"{file}, line {reader.line_num}: expected {len(columns)} fields, "
                f"{', '.join(columns)}, got {fields}. Write fields that contain a "
                f"delimiter in double quotes."
            )
        rows.append(dict(zip(columns, map(str.strip, fields), strict=True)))
    origin = "from what stands beside the path on each line"
    labelled = headless is not None and len(headless) > 1
    return _Table(columns=columns, rows=rows, origin=origin if labelled else None)


def _without_comments(text: str) -> str:
    """Return a table without blank lines and comments above it; `# path` is a heading."""
    text = text.lstrip("\r\n ")
    while text.startswith("#"):
        first, _, rest = text.partition("\n")
        second = rest.partition("\n")[0]
        words = re.split(r"[,\t;|]", first.strip("# \r"))
        fits = any(first.count(each) == second.count(each) > 0 for each in _DELIMITERS)
        if column_named(words, PATHS) and (fits or len(words) == 1):
            return text.lstrip("# ")
        text = rest.lstrip("\r\n ")
    return text


def _headless(first: Sequence[str], file: Path) -> tuple[str, ...] | None:
    """Return the columns of a table whose first line is an image; None: it is a heading.

    Raises:
        UsageError: several fields beside the path could be the label.
    """
    paths = [
        number
        for number, field in enumerate(first)
        if field.lower().endswith(_ENDS) or (field and (file.parent / field).is_file())
    ]
    if not paths or column_named(first, PATHS):
        return None
    if len(first) > 2:
        raise UsageError(
            f"{file} has no heading, but {len(first)} columns: which is the label? Write "
            f"a first line with the names of the columns. {_HINT}"
        )
    return tuple("path" if number == paths[0] else "label" for number in range(len(first)))


def _json_lines(text: str, file: Path) -> _Table:
    """Read one JSON object per line; a missing key is an empty field."""
    objects = [json.loads(line) for line in text.split("\n") if line.strip()]
    if not all(isinstance(each, dict) for each in objects):
        raise UsageError(f"{file} has lines that are not JSON objects. {_HINT}")
    columns = tuple(dict.fromkeys(key for each in objects for key in each))
    return _Table(
        columns=columns,
        rows=[{key: label_text(each.get(key)) for key in columns} for each in objects],
    )

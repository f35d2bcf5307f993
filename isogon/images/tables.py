"""Tables of images: CSV, TSV, JSON and JSONL, or plain text, read to rows of text.

Plain text has a path on every line, or a path and a label (`a/0.jpg 3`), as the lists of
ImageNet and of Caffe do. With a heading it is a table, and a table without a heading is
read like such text. JSON is a list of objects, an object of columns or of labels by path,
or the annotations of COCO or StyleGAN.
"""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from isogon.errors import UsageError
from isogon.images.classes import LABELS, column_named, json_values, label_text
from isogon.images.formats import SUFFIXES

LISTS = {".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".txt"}

# Names of columns of paths; the first that is present counts. Case and blanks are ignored.
PATHS = (
    *("path", "image_path", "img_path", "file_path", "filepath", "filename", "file_name"),
    *("relative_path", "image_file", "file", "image", "img", "image_name"),
    *("image_filename", "img_name", "img_file", "fname", "paths", "filenames", "uri"),
    *("images", "photo", "picture"),
)

# Names of columns of paths that often hold something else.
_IDS = ("name", "image_id", "img_id", "id")

HINT = "Expected a heading with a column `path` and, if there are classes, `label`."
_DELIMITERS = (",", "\t", ";", "|")

_DELIMITER = re.compile(r"sep=(.)\r?\n", re.IGNORECASE)

# A path that ends with an image's suffix, followed by a label.
ENDS = tuple(SUFFIXES)
_LABELLED = re.compile(
    rf'"?(.+(?:{"|".join(map(re.escape, sorted(SUFFIXES, reverse=True)))}))"?'
    r"(?:\s*[,;|]\s*|\s+)(\S.*)",
    re.IGNORECASE,
)
_BETWEEN = re.compile(r"[\s,;|]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """The content of a list: one row per image."""

    columns: tuple[str, ...]
    rows: Sequence[Mapping[str, object]]  # text, or values of JSON
    origin: str | None = None  # where the labels are from, if there is no heading

    def texts(self, column: str) -> list[str]:
        """Return a column as text.

        Raises:
            UsageError: a value is an object, or a list of several.
        """
        return [label_text(row.get(column), column) for row in self.rows]

    @property
    def path(self) -> str | None:
        """The column of paths: by its name, else because all its texts end as images do."""
        usual = column_named(self.columns, PATHS)
        if usual is not None:
            return usual
        ended = [
            column
            for column in self.columns
            if self.rows and all(_ends_as_image(row.get(column)) for row in self.rows)
        ]
        return ended[0] if len(ended) == 1 else column_named(self.columns, _IDS)


def table(file: Path) -> Table:
    """Return the rows of a list.

    Raises:
        UsageError: it cannot be read.
    """
    suffix = file.suffix.lower()
    try:
        data = file.read_bytes()
        text = data.decode(_encoding(data)).replace("\0", "\n")  # as `find -print0` ends
        if suffix == ".txt":
            return _plain(text, file)
        if suffix in (".jsonl", ".ndjson", ".json"):
            return _json(text, file)
        return _delimited(text, "\t" if suffix == ".tsv" else ",", file)
    except (OSError, UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
        expected = "Expected a path on every line." if suffix == ".txt" else HINT
        if isinstance(error, UnicodeDecodeError):
            expected += " Save it as UTF-8; in Excel that is the type `CSV UTF-8`."
        raise UsageError(f"{file} cannot be read as a list: {error}. {expected}") from error


def _encoding(data: bytes) -> str:
    """Return UTF-8, or UTF-16 by its mark (Excel's "Unicode text") or by its zeros."""
    if len(data) > 2 and data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    begin = data[:4096]
    even, odd = begin[::2].count(0), begin[1::2].count(0)
    if even + odd < len(begin) / 8:  # of `find -print0`, if any
        return "utf-8-sig"
    return "utf-16-le" if odd > even else "utf-16-be"


def _plain(text: str, file: Path) -> Table:
    """Read a path, or a path and a label, per line; with a heading, read a table."""
    whole = [line for line in text.replace("\r\n", "\n").split("\n") if line.strip()]
    lines = [
        one for one in whole if not one.startswith("#") or (file.parent / one).exists()
    ]
    heading = _BETWEEN.split(whole[0].strip("# ")) if whole else []
    below = _BETWEEN.split(lines[0].strip()) if lines else []
    fits = lines[:1] == whole[:1] or len(below) == len(heading)
    if fits and _names_path(heading) and column_named(heading, LABELS):
        usual = next((each for each in _DELIMITERS if each in whole[0]), " ")
        return _delimited(text, usual, file)
    if _are_numbered(lines):
        lines = [line.split(maxsplit=1)[1] for line in lines]
    known = [
        (line, "") if (file.parent / line).exists() else _path_and_label(line, file.parent)
        for line in lines
    ]
    if not any(_ends_as_image(path) or (file.parent / path).exists() for path, _ in known):
        known = _without_suffixes(lines)
    labels = [label for _, label in known]
    if not any(labels) or _are_own_numbers(labels):
        return Table(columns=("path",), rows=[{"path": path} for path, _ in known])
    origin = "from the text after the path on each line"
    if first := _first_words(labels):
        labels, origin = first, "from the first word after the path; unused: the others"
    rows = [
        {"path": path, "label": label}
        for (path, _), label in zip(known, labels, strict=True)
    ]
    return Table(columns=("path", "label"), rows=rows, origin=origin)


def _without_suffixes(lines: Sequence[str]) -> list[tuple[str, str]]:
    """Split `n01440764/n01440764_10026 1` at the blank, if each line has as many parts."""
    parts = [_BETWEEN.split(line.strip()) for line in lines]
    if {len(each) for each in parts} in (set(), {1}) or len({len(p) for p in parts}) > 1:
        return [(line, "") for line in lines]
    return [(first, " ".join(rest)) for first, *rest in parts]


def _are_numbered(lines: Sequence[str]) -> bool:
    """Whether each line is a number of its own and a path: `1 001.Albatross/a.jpg`."""
    return all(_ends_as_image(line) and " " in line for line in lines) and (
        _are_own_numbers([line.partition(" ")[0] for line in lines])
    )


def _are_own_numbers(texts: Sequence[str]) -> bool:
    """Whether each text is a number that no other is: of an image, and not a class."""
    return 2 < len(texts) == len(set(texts)) and all(map(str.isdecimal, texts))


def _first_words(labels: Sequence[str]) -> list[str] | None:
    """Return the first words, if they are classes and the whole texts are not.

    Tiny ImageNet's `val_annotations.txt` has a box after the class.
    """
    parts = [_BETWEEN.split(label) for label in labels]
    first = [each[0] for each in parts]
    further = len(set(map(len, parts))) == 1 and len(parts[0]) > 1
    if further and 1 < len(set(first)) <= len(labels) / 2 < len(set(labels)):
        return first
    return None


def _path_and_label(line: str, folder: Path) -> tuple[str, str]:
    """Split a line that is not the path of a file; the label is usually after the path."""
    line = line.strip()
    first, _, rest = line.partition(" ")
    if _ends_as_image(line):
        before = rest and (folder / rest.strip()).exists()
        return (rest.strip(), first) if before else (line, "")
    found = _LABELLED.fullmatch(line)
    return (line, "") if found is None else (found[1], _unquoted(found[2]))


def _ends_as_image(text: object) -> bool:
    return isinstance(text, str) and text.lower().endswith(ENDS)


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text


def _delimited(text: str, usual: str, file: Path) -> Table:
    """Read a table, with a heading or without; the first line tells the delimiter."""
    text = _without_comments(text, usual)
    if stated := _DELIMITER.match(text):  # as Excel reads and writes it
        usual, text = stated[1], text[stated.end() :]
    first_line, second_line = [*text.split("\n", 2), ""][:2]
    delimiter = max(
        (usual, *_DELIMITERS),
        key=lambda each: (each in second_line) * first_line.count(each),
    )
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
    return Table(columns=columns, rows=rows, origin=origin if labelled else None)


def _without_comments(text: str, usual: str) -> str:
    """Return a table without blank lines and comments above it; `# path` is a heading."""
    text = text.lstrip("\r\n ")
    comments = []
    while text.startswith("#"):
        comment, _, text = text.partition("\n")
        comments.append(comment.strip("# \r"))
        text = text.lstrip("\r\n ")
    below = text.partition("\n")[0]
    counts = {each: below.count(each) for each in (usual, *_DELIMITERS)}
    for comment in comments:
        for each, count in counts.items():
            alone = not any(counts.values())
            words = comment.split(each)
            if len(words) == count + 1 and (count or alone) and column_named(words, PATHS):
                return f"{comment}\n{text}"
    return text


def _names_path(words: Sequence[str]) -> bool:
    return column_named(words, (*PATHS, *_IDS)) is not None


def _headless(first: Sequence[str], file: Path) -> tuple[str, ...] | None:
    """Return the columns of a table whose first line is an image; None: it is a heading.

    Raises:
        UsageError: several fields beside the path could be the label.
    """
    paths = [
        number
        for number, field in enumerate(first)
        if field.lower().endswith(ENDS) or (field and (file.parent / field).is_file())
    ]
    if not paths or _names_path(first):
        return None
    if len(first) > 2:
        raise UsageError(
            f"{file} has no heading, but {len(first)} columns: which is the label? Write "
            f"a first line with the names of the columns. {HINT}"
        )
    return tuple("path" if number == paths[0] else "label" for number in range(len(first)))


def _json(text: str, file: Path) -> Table:
    """Read one JSON document, or an object on each line."""
    try:
        objects = _objects(json.loads(text))
    except json.JSONDecodeError:
        objects = [json.loads(line) for line in text.split("\n") if line.strip()]
    if objects is None or not all(isinstance(each, dict) for each in objects):
        raise UsageError(
            f"{file} is not JSON that lists images. Expected objects such as "
            f'{{"path": "a.jpg", "label": "cat"}}, one on each line or in a list.'
        )
    rows = [dict(json_values(each)) for each in objects]
    return Table(columns=tuple(dict.fromkeys(chain.from_iterable(rows))), rows=rows)


def _objects(document: Any) -> list[Any] | None:
    """Return an object for each image of a JSON document; None for other documents."""
    if isinstance(document, list):
        return [_pair(each) for each in document]
    if not isinstance(document, dict):
        return None
    images, annotations = document.get("images"), document.get("annotations")
    if isinstance(images, list) and isinstance(annotations, list):
        return _of_coco(images, annotations, document.get("categories") or [])
    if _names_path([*document]):  # one image, or columns as pandas writes them
        return _of_columns(document)
    lists = [each for each in document.values() if isinstance(each, list)]
    if len(lists) == 1:
        return [_pair(each) for each in lists[0]]
    if document and all(map(_ends_as_image, document)):
        return [
            {"path": path, **(said if isinstance(said, dict) else {"label": said})}
            for path, said in document.items()
        ]
    return None


def _pair(item: Any) -> Any:
    """Return `[path, label]`, as StyleGAN's `dataset.json` has it, as an object."""
    if isinstance(item, list) and len(item) == 2 and _ends_as_image(item[0]):
        return {"path": item[0], "label": item[1]}
    return {"path": item} if _ends_as_image(item) else item


def _of_columns(document: dict[str, Any]) -> list[dict[str, Any]]:
    columns = {
        key: list(cells.values()) if isinstance(cells, dict) else cells
        for key, cells in document.items()
    }
    if not all(isinstance(cells, list) for cells in columns.values()):
        return [document]
    return [
        dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=False)
    ]


def _of_coco(
    images: list[Any], annotations: list[Any], categories: list[Any]
) -> list[dict[str, Any]] | None:
    """Return COCO's images, each with the names of its categories."""
    if not all(isinstance(each, dict) for each in chain(images, annotations, categories)):
        return None
    names = {each.get("id"): each.get("name") for each in categories}
    found: dict[Any, set[str]] = {}
    for each in annotations:
        category = each.get("category_id")
        if category is not None:
            found.setdefault(each.get("image_id"), set()).add(
                str(names.get(category, category))
            )
    return [
        each | {"category": sorted(found.get(each.get("id"), ()))} if found else each
        for each in images
    ]

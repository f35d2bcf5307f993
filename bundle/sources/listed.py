"""Images named by a list.

CSV or TSV with a column `path` and maybe `label`, or text with a path on every line.
"""

import csv
import os
from collections.abc import Sequence
from pathlib import Path, PurePath

from bundle.collection import numbered, require_unique
from bundle.errors import UsageError
from bundle.folder import ImageFolder

_HINT = "Expected a column `path` and, where there are classes, a column `label`."


def listed_images(files: Sequence[Path], *, where: str) -> ImageFolder:
    """Return the images of CSV or TSV lists with a heading, or of plain text without.

    Raises:
        UsageError: a list is no such file, or `images_at` refuses it.
    """
    pairs = [(file, row) for file in files for row in _rows(file)]
    return images_at(
        [(file, row["path"]) for file, row in pairs],
        [row.get("label") for _, row in pairs],
        where=where,
    )


def images_at(
    paths: Sequence[tuple[Path, str]], labels: Sequence[str | None], *, where: str
) -> ImageFolder:
    """Return images that are files of their own; the names are the paths, tidied.

    A listed file that does not exist is unreadable like one that does not decode.

    Args:
        paths: the list that names an image, and the image's path: absolute, or
            relative to the list's folder.
        labels: their classes; all None or empty without classes.
        where: the lists, for messages.

    Raises:
        UsageError: nothing is listed, an image twice, or only some have a label.
    """
    if not paths:
        raise UsageError(f"{where} lists no images. {_HINT}")
    classes, numbers = numbered(complete_labels(labels, where))
    root = paths[0][0].parent
    names = tuple(_name(file.parent, path, root) for file, path in paths)
    require_unique(names, where)
    return ImageFolder(
        where=where, names=names, classes=classes, class_numbers=numbers, root=root
    )


def _name(folder: Path, path: str, root: Path) -> str:
    if not Path(path).is_absolute():
        path = os.path.relpath(folder / path, root)
    return PurePath(os.path.normpath(path)).as_posix()


def complete_labels(labels: Sequence[str | None], where: str) -> list[str]:
    """Return the labels, empty strings where no image has one.

    Raises:
        UsageError: some images have a label and others have none.
    """
    missing = [number for number, label in enumerate(labels, 1) if not label]
    if missing and len(missing) < len(labels):
        shown = ", ".join(map(str, missing[:10]))
        raise UsageError(
            f"{where} gives a label to {len(labels) - len(missing)} of its {len(labels)} "
            f"images, but not to image {shown}. Label all of them, or none."
        )
    return [label or "" for label in labels]


def _rows(file: Path) -> list[dict[str, str]]:
    if file.suffix.lower() == ".txt":
        return [{"path": line} for line in _lines(file) if line]
    delimiter = "\t" if file.suffix.lower() == ".tsv" else ","
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            reader = csv.DictReader(opened, delimiter=delimiter, strict=True)
            columns = reader.fieldnames or ()
            if "path" not in columns:
                raise UsageError(
                    f"{file} has no column `path`, only {', '.join(columns) or 'none'}. "
                    f"{_HINT}"
                )
            rows = []
            for row in reader:
                if not row["path"] or None in row:
                    raise UsageError(
                        f"{file}, line {reader.line_num}: expected {len(columns)} fields "
                        f"with a path, got {list(row.values())}."
                    )
                rows.append(row)
            return rows
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{file} cannot be read as a list: {error}. {_HINT}") from error


def _lines(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8-sig")  # ends every line with \n
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{file} cannot be read as a list: {error}. Expected a path on every line."
        ) from error
    return text.split("\n")  # other ends of lines may be part of a path

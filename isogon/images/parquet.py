"""Images in Parquet files: a column of paths, or of encoded images."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from isogon.errors import UsageError
from isogon.images.classes import (
    ClassChoice,
    classes_by_folder,
    classes_by_label,
    column_named,
    column_sentence,
    label_column,
    label_text,
    one_hot_labels,
)
from isogon.images.collection import Images, Indices, decoded, require_unique
from isogon.images.listed import images_at
from isogon.images.tables import PATHS

# A row group is the smallest part that can be read; each process caches two.
_LARGEST_GROUP = 256 * 2**20  # bytes, of encoded images
IMAGES = ("image", "img", "jpg", "jpeg", "png", "webp", "picture", "photo", "bytes")
_HINT = (
    "Expected a column `image` of encoded images (binary, or a struct with `bytes`) or "
    "a column `path`, and, if there are classes, a column `label`."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Columns:
    """The columns of images, paths and labels."""

    all: tuple[str, ...]
    image: str | None
    path: str | None
    label: str | None

    @property
    def words(self) -> str:
        return column_sentence(self.label, self.all, used=(self.image, self.path))


@dataclass(frozen=True, kw_only=True, slots=True)
class ParquetImages(Images):
    """Encoded images in a column of Parquet files.

    Reading an image reads its row group, unless that is cached: 13 ms for 100 photographs
    of 120 kB, the size of Hugging Face's groups; decoding one takes 4 ms. A tar has no
    such cost.
    """

    parts: tuple[Path, ...]
    column: str  # binary, or a struct with `bytes`
    group_starts: Indices  # the first image of each row group
    group_parts: Indices  # the number of the file it is in
    group_numbers: Indices  # its number in that file

    def image(self, index: int) -> Image.Image:
        """Return the decoded image, RGB and upright.

        Raises:
            UsageError: it cannot be read; the message names file and image.
        """
        group, part = self._group(index), self.file(index)
        name = f"{part}: {self.names[index]}"
        try:
            cells = _cells(part, int(self.group_numbers[group]), self.column)
        except (pa.ArrowException, OSError) as error:
            raise UsageError(f"{name} cannot be read: {error}.") from error
        data, path = _content(cells[index - int(self.group_starts[group])].as_py())
        if data is None and path:
            try:
                data = (part.parent / path).read_bytes()
            except OSError as error:
                raise UsageError(f"{name} cannot be read: {error}.") from error
        if data is None:
            raise UsageError(f"{name} has no bytes. {_HINT}")
        return decoded(data, name, self.range)

    def file(self, index: int) -> Path:
        """Return the Parquet file that holds an image."""
        return self.parts[int(self.group_parts[self._group(index)])]

    def _group(self, index: int) -> int:
        return int(np.searchsorted(self.group_starts, index, side="right")) - 1

    def files(self) -> Iterable[Path]:
        """Yield the Parquet files."""
        return self.parts


def parquet_images(files: Sequence[Path], *, where: str, choice: ClassChoice) -> Images:
    """Return the images that Parquet files list or contain.

    A contained image is named by the column `path`, or by its row number without one; with
    several files, the name begins with the file's name. Numbered classes have the names in
    Hugging Face's metadata.

    Args:
        files: all with the same columns.
        where: the files, for messages.
        choice: which column has the classes, or which level of the paths' folders.

    Raises:
        UsageError: a file is not Parquet, columns do not fit, row groups are too large,
            there are no images, two have one name, or only some have a label.
    """
    opened = [_opened(file) for file in files]
    schema = opened[0].schema_arrow
    for file, other in zip(files, opened, strict=True):
        if other.schema_arrow.names != schema.names:
            raise UsageError(
                f"{file} has the columns {', '.join(other.schema_arrow.names)}, but "
                f"{files[0]} has {', '.join(schema.names)}. Give all files the "
                f"same columns."
            )
    columns = _columns(opened, choice, where)
    labels, origin = None, columns.words
    if columns.label is not None:
        labels = _labels(opened, columns.label)
    elif choice.level is None:
        hot = _one_hot(opened, columns)
        if hot is not None:
            labels, origin = hot
    if columns.image is not None:
        return _held(files, opened, columns, labels, origin, where, choice.level)
    if columns.path is None:
        raise UsageError(f"{where} has the columns {', '.join(schema.names)}. {_HINT}")
    paths = [
        (file, path or "")
        for file, each in zip(files, opened, strict=True)
        for path in _texts(each, columns.path)
    ]
    return images_at(paths, labels, origin, where=where, level=choice.level)


def _columns(opened: list[pq.ParquetFile], choice: ClassChoice, where: str) -> _Columns:
    schema = opened[0].schema_arrow
    names = [field.name for field in schema]
    image = _image_column(schema)
    paths = [name for name in names if _is_text(schema.field(name).type)]
    path = column_named(paths, PATHS)
    others = [name for name in names if name not in (image, path)]
    label = label_column(others, choice, where, lambda name: _labels(opened, name))
    if label is None and choice.level is None:  # the only one whose classes have names
        named = [name for name in others if _class_names(schema, name)]
        label = named[0] if len(named) == 1 else None
    return _Columns(all=tuple(names), image=image, path=path, label=label)


def _held(
    files: Sequence[Path],
    opened: list[pq.ParquetFile],
    columns: _Columns,
    labels: list[str] | None,
    origin: str,
    where: str,
    level: int | None,
) -> ParquetImages:
    assert columns.image is not None
    column = columns.image
    names: list[str] = []
    groups: list[tuple[int, int, int]] = []
    for number, (file, each) in enumerate(zip(files, opened, strict=True)):
        start = len(names)
        for group in range(each.num_row_groups):
            _require_small(each, group, column, file)
            groups.append((start, number, group))
            start += each.metadata.row_group(group).num_rows
        prefix = f"{file.stem}/" if len(files) > 1 else ""
        given = [] if columns.path is None else _texts(each, columns.path)
        names += [
            f"{prefix}{given[row] if given else row}"
            for row in range(each.metadata.num_rows)
        ]
    if not names:
        raise UsageError(f"{where} has no images. {_HINT}")
    require_unique(names, where)
    if level is not None:
        classes = classes_by_folder(names, level, where)
    else:
        classes = classes_by_label(labels, len(names), origin, where)
    table = np.array(groups, dtype=np.int64)
    return ParquetImages(
        where=where,
        names=tuple(names),
        classes=classes.names,
        class_numbers=classes.numbers,
        class_words=classes.sentence,
        parts=tuple(files),
        column=column,
        group_starts=table[:, 0],
        group_parts=table[:, 1],
        group_numbers=table[:, 2],
    )


def _opened(file: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"{file} cannot be read as Parquet: {error}. {_HINT}") from error


def _image_column(schema: pa.Schema) -> str | None:
    """Return the column of encoded images: one with a usual name, else the only one."""
    encoded = [field.name for field in schema if _is_encoded(field.type)]
    found = column_named(encoded, IMAGES) or (encoded[0] if len(encoded) == 1 else None)
    if found is None and "image" in schema.names:
        kind = schema.field("image").type
        if not _is_text(kind):  # of paths
            raise UsageError(f"The column `image` is of type {kind}. {_HINT}")
    return found


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
    )


def _is_encoded(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        place = kind.get_field_index("bytes")
        return place >= 0 and _is_encoded(kind.field(place).type)
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
    )


def _content(cell: bytes | dict[str, Any] | None) -> tuple[bytes | None, str | None]:
    """Return an image's bytes and its path, of which one may be missing."""
    if isinstance(cell, dict):
        return cell.get("bytes"), cell.get("path")
    return cell, None


def _texts(opened: pq.ParquetFile, column: str) -> list[str | None]:
    """Return a column's values as text."""
    values = opened.read(columns=[column], use_threads=False)[column].to_pylist()
    return [None if value is None else str(value) for value in values]


def _labels(opened: Sequence[pq.ParquetFile], column: str) -> list[str]:
    """Return a column's classes, by name if the files' metadata have the names."""
    found = []
    for each in opened:
        names = _class_names(each.schema_arrow, column)
        values = each.read(columns=[column], use_threads=False)[column].to_pylist()
        for value in values:
            one = value[0] if isinstance(value, list) and len(value) == 1 else value
            named = isinstance(one, int) and 0 <= one < len(names)
            found.append(names[one] if named else label_text(value, column))
    return found


def _one_hot(
    opened: Sequence[pq.ParquetFile], columns: _Columns
) -> tuple[list[str], str] | None:
    """Return labels and their origin, if there is a column of 0 and 1 for each class."""
    schema = opened[0].schema_arrow
    binary = [
        name
        for name in columns.all
        if pa.types.is_boolean(kind := schema.field(name).type)
        or pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
    ]
    if len(binary) < 2:
        return None
    rows = [
        {name: label_text(value, name) for name, value in row.items()}
        for each in opened
        for row in each.read(columns=binary, use_threads=False).to_pylist()
    ]
    return one_hot_labels(binary, rows)


def _class_names(schema: pa.Schema, column: str) -> list[str]:
    """Return the names of a column's classes as Hugging Face's `datasets` writes them."""
    try:
        written = json.loads((schema.metadata or {})[b"huggingface"])
        feature = written["info"]["features"][column]
        return list(map(str, feature.get("feature", feature)["names"]))
    except (KeyError, TypeError, ValueError):
        return []


def _require_small(opened: pq.ParquetFile, group: int, column: str, file: Path) -> None:
    rows = opened.metadata.row_group(group)
    chunks = [rows.column(number) for number in range(rows.num_columns)]
    size = sum(
        chunk.total_uncompressed_size
        for chunk in chunks
        if chunk.path_in_schema in (column, f"{column}.bytes")
    )
    if size > _LARGEST_GROUP:
        raise UsageError(
            f"Row group {group} of {file} has {size / 2**20:,.0f} MiB of images, and "
            f"reading one image means reading its group; the limit is "
            f"{_LARGEST_GROUP // 2**20} MiB. Write the file again with "
            f"`pyarrow.parquet.write_table(table, path, row_group_size=100)`."
        )


@lru_cache(maxsize=2)
def _cells(part: Path, group: int, column: str) -> pa.Array:
    """Return one row group's encoded images, read without threads, which forks lose."""
    with pq.ParquetFile(part, memory_map=True, pre_buffer=False) as opened:
        table = opened.read_row_group(group, columns=[column], use_threads=False)
    return table[column].combine_chunks()

"""Images in Parquet: a list of paths, or the encoded images themselves."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from bundle.collection import Images, Indices, decoded, numbered, require_unique
from bundle.errors import UsageError
from bundle.sources.listed import complete_labels, images_at

# A row group is the smallest part that can be read; each process keeps two.
_LARGEST_GROUP = 256 * 2**20  # bytes, of encoded images

_HINT = (
    "Expected a column `image` of encoded images (binary, or a struct with `bytes`) or "
    "a column `path`, and, where there are classes, a column `label`."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ParquetImages(Images):
    """Encoded images in a column of Parquet files.

    One image costs reading its row group, unless the image before came from it too:
    13 ms for 100 photographs of 120 kB, the size of Hugging Face's groups, beside 4 ms
    for decoding one. A tar has no such cost.
    """

    parts: tuple[Path, ...]
    column: str  # `image`, or `image.bytes` inside a struct
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
        data = cells[index - int(self.group_starts[group])].as_py()
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


def parquet_images(files: Sequence[Path], *, where: str) -> Images:
    """Return the images that Parquet files list or hold.

    Images held have the names in `path`, where there is such a column, else the number
    of their row; with several files the name of each stands before.

    Raises:
        UsageError: no Parquet, no fitting columns, too large row groups, no images, two
            of one name, or only some with a label.
    """
    opened = [_opened(file) for file in files]
    schema = opened[0].schema_arrow
    for file, other in zip(files, opened, strict=True):
        if other.schema_arrow.names != schema.names:
            raise UsageError(
                f"{file} has the columns {', '.join(other.schema_arrow.names)}, but "
                f"{files[0]} has {', '.join(schema.names)}. Give all files the same."
            )
    labels: list[str | None] = []
    for each in opened:
        labels += _texts(each, "label") or [None] * each.metadata.num_rows
    column = _image_column(schema)
    if column is not None:
        return _held(files, opened, column, labels, where)
    if "path" not in schema.names:
        raise UsageError(f"{where} has the columns {', '.join(schema.names)}. {_HINT}")
    paths = [
        (file, path or "")
        for file, each in zip(files, opened, strict=True)
        for path in _texts(each, "path")
    ]
    return images_at(paths, labels, where=where)


def _held(
    files: Sequence[Path],
    opened: list[pq.ParquetFile],
    column: str,
    labels: list[str | None],
    where: str,
) -> ParquetImages:
    names: list[str] = []
    groups: list[tuple[int, int, int]] = []
    for number, (file, each) in enumerate(zip(files, opened, strict=True)):
        start = len(names)
        for group in range(each.num_row_groups):
            _require_small(each, group, column, file)
            groups.append((start, number, group))
            start += each.metadata.row_group(group).num_rows
        prefix = f"{file.stem}/" if len(files) > 1 else ""
        given = _texts(each, "path")
        names += [
            f"{prefix}{given[row] if given else row}"
            for row in range(each.metadata.num_rows)
        ]
    if not names:
        raise UsageError(f"{where} holds no images. {_HINT}")
    require_unique(names, where)
    classes, numbers = numbered(complete_labels(labels, where))
    table = np.array(groups, dtype=np.int64)
    return ParquetImages(
        where=where,
        names=tuple(names),
        classes=classes,
        class_numbers=numbers,
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
    if "image" not in schema.names:
        return None
    kind = schema.field("image").type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return "image"
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return "image.bytes"
    raise UsageError(f"The column `image` is of type {kind}. {_HINT}")


def _texts(opened: pq.ParquetFile, column: str) -> list[str | None]:
    """Return a column's values as text; nothing where there is no such column."""
    if column not in opened.schema_arrow.names:
        return []
    values = opened.read(columns=[column], use_threads=False)[column].to_pylist()
    return [None if value is None else str(value) for value in values]


def _require_small(opened: pq.ParquetFile, group: int, column: str, file: Path) -> None:
    rows = opened.metadata.row_group(group)
    chunks = [rows.column(number) for number in range(rows.num_columns)]
    size = sum(
        chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema == column
    )
    if size > _LARGEST_GROUP:
        raise UsageError(
            f"Row group {group} of {file} holds {size / 2**20:,.0f} MiB of images, and "
            f"reading one image means reading its group; at most "
            f"{_LARGEST_GROUP // 2**20} MiB do. Write the file again with "
            f"`pyarrow.parquet.write_table(table, path, row_group_size=100)`."
        )


@lru_cache(maxsize=2)
def _cells(part: Path, group: int, column: str) -> pa.Array:
    """Return one row group's encoded images, without threads: forks lose them."""
    with pq.ParquetFile(part, memory_map=True, pre_buffer=False) as opened:
        table = opened.read_row_group(group, columns=[column], use_threads=False)
    cells = table["image"].combine_chunks()
    return cells.field("bytes") if pa.types.is_struct(cells.type) else cells

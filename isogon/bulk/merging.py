"""Merge finished parts into one Parquet file and the list of unreadable images."""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from isogon.bulk.parts import Parts, publish
from isogon.bulk.table import COMPRESSION, PartTable, schema

_HEADER = ("name", "reason")  # of the list
_GROUP = 64 * 2**20  # bytes of embeddings in a row group: what is held in memory


@dataclass(frozen=True, kw_only=True, slots=True)
class Merged:
    """What the output holds."""

    rows: int
    flagged: int
    unreadable: int
    unreadable_list: Path | None


def merge(parts: Parts, output: Path, *, width: int, metadata: Mapping[str, str]) -> Merged:
    """Write the rows of all parts in order; both files appear whole.

    Args:
        parts: all of them finished.
        output: the Parquet file.
        width: of the embedding.
        metadata: what the file says of itself.

    Raises:
        UsageError: a part is damaged.
    """
    columns = schema(width, labelled=bool(parts.job.images.classes))
    listed = output.with_name(f"{output.name}.unreadable.csv")
    pending, pending_list = parts.pending(output.name), parts.pending(listed.name)
    rows = flagged = unreadable = 0
    with (
        pq.ParquetWriter(
            pending, columns.with_metadata(dict(metadata)), compression=COMPRESSION
        ) as writer,
        pending_list.open("w", encoding="utf-8", newline="") as file,
    ):
        lines = csv.writer(file)
        lines.writerow(_HEADER)

        def tables() -> Iterator[pa.Table]:
            nonlocal unreadable
            for number in parts.job.parts:
                part = PartTable.read(parts.path(number))
                lines.writerows(part.unreadable)
                unreadable += len(part.unreadable)
                yield part.rows.replace_schema_metadata(dict(metadata))

        for group in _groups(tables(), max(1, _GROUP // (4 * width))):
            writer.write_table(group, row_group_size=len(group))
            rows += len(group)
            flagged += pc.sum(group["is_ood"]).as_py()
    if unreadable:
        publish(pending_list, listed)
    elif listed.exists() and _is_ours(listed):
        listed.unlink()
    publish(pending, output)
    return Merged(
        rows=rows,
        flagged=flagged,
        unreadable=unreadable,
        unreadable_list=listed if unreadable else None,
    )


def _is_ours(listed: Path) -> bool:
    with listed.open(encoding="utf-8", errors="replace", newline="") as file:
        return next(csv.reader(file), None) == list(_HEADER)


def _groups(tables: Iterator[pa.Table], size: int) -> Iterator[pa.Table]:
    """Yield the same rows in tables of `size`, the last one shorter, none empty."""
    held: pa.Table | None = None
    for table in tables:
        held = table if held is None else pa.concat_tables([held, table])
        while len(held) >= size:
            yield held.slice(0, size).combine_chunks()
            held = held.slice(size)
    if held is not None and len(held):
        yield held.combine_chunks()

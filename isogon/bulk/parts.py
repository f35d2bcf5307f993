"""Finished parts of a run: their table, and the folder that keeps them until the end."""

import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from isogon.bulk.job import BulkJob, RunRecord
from isogon.bundle.stage_writer import LOCK, exclusive, fsync
from isogon.errors import UsageError, option
from isogon.images import Images
from isogon.images.classes import as_unicode
from isogon.model import Answers

COMPRESSION = "zstd"
_UNREADABLE = b"isogon.unreadable"  # in a part's metadata: JSON, [[name, reason], ...]
_RUN = "run.json"
_PENDING = ".pending"


def schema(width: int, *, labelled: bool) -> pa.Schema:
    """Return the columns of a part, and of the output.

    Args:
        width: of the embedding.
        labelled: whether the images have classes.
    """
    label = [pa.field("label", pa.string())] if labelled else []
    return pa.schema(
        [
            pa.field("name", pa.string()),
            *label,
            pa.field("embedding", pa.list_(pa.float32(), width)),
            pa.field("ood_score", pa.float32()),
            pa.field("p_value", pa.float64()),
            pa.field("is_ood", pa.bool_()),
        ]
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class PartTable:
    """The result of one part: rows for readable images, reasons for the others."""

    rows: pa.Table
    unreadable: Sequence[tuple[str, str]]  # name and reason

    @classmethod
    def of(
        cls,
        images: Images,
        seen: Sequence[int],
        answers: Sequence[Answers],
        unreadable: Mapping[int, str],
        *,
        width: int,
    ) -> Self:
        """Return the table of a part.

        Args:
            images: the source.
            seen: the images that were embedded, in order.
            answers: the model's answers to them, by batch.
            unreadable: the other images of the part, each with a reason.
            width: of the embedding.
        """
        nothing = Answers(
            embeddings=np.empty((0, width), np.float32),
            scores=np.empty(0, np.float32),
            p_values=np.empty(0),
            is_ood=np.empty(0, bool),
        )
        batches = [nothing, *answers]
        embeddings = np.concatenate([batch.embeddings for batch in batches])
        p_values = np.concatenate([batch.p_values for batch in batches])
        columns = {
            "name": pa.array([as_unicode(images.names[i]) for i in seen], pa.string()),
            "embedding": pa.FixedSizeListArray.from_arrays(
                pa.array(embeddings.ravel()), width
            ),
            "ood_score": pa.array(np.concatenate([batch.scores for batch in batches])),
            "p_value": pa.array(p_values),
            "is_ood": pa.array(np.concatenate([batch.is_ood for batch in batches])),
        }
        if images.classes:
            labels = [images.classes[images.class_numbers[i]] for i in seen]
            columns["label"] = pa.array(labels, pa.string())
        return cls(
            rows=pa.table(columns, schema(width, labelled=bool(images.classes))),
            unreadable=[
                (as_unicode(images.names[i]), as_unicode(reason))
                for i, reason in unreadable.items()
            ],
        )

    def to_bytes(self) -> bytes:
        """Return the content of a Parquet file."""
        noted = {_UNREADABLE: json.dumps(self.unreadable).encode()}
        file = io.BytesIO()
        rows = self.rows.replace_schema_metadata(noted)
        pq.write_table(rows, file, compression=COMPRESSION)
        return file.getvalue()

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the table that `to_bytes` wrote.

        Raises:
            UsageError: the file is damaged.
        """
        try:
            rows = pq.ParquetFile(path).read(use_threads=False)
            noted = json.loads(rows.schema.metadata[_UNREADABLE])
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
            raise UsageError(
                f"{path} is damaged: {error}. Remove it and run again, which embeds its "
                f"images again."
            ) from error
        return cls(rows=rows, unreadable=[(name, reason) for name, reason in noted])


@dataclass(frozen=True, kw_only=True, slots=True)
class PartFolder:
    """A folder with one file per finished part; a file is complete or absent."""

    folder: Path
    job: BulkJob

    def done(self) -> list[int]:
        """Return the numbers of the finished parts."""
        found = (
            re.fullmatch(r"part-(\d+)\.parquet", p.name) for p in self.folder.iterdir()
        )
        return sorted(int(match[1]) for match in found if match)

    def path(self, number: int) -> Path:
        """Return the path of a part's file."""
        return self.folder / f"part-{number:05}.parquet"

    def pending(self, name: str) -> Path:
        """Return the path to write a file to before `publish` gives it its name."""
        return self.folder / f".{name}{_PENDING}"

    def write(self, number: int, content: bytes) -> None:
        """Keep a finished part."""
        pending = self.pending(self.path(number).name)
        pending.write_bytes(content)
        publish(pending, self.path(number))

    def clear(self) -> None:
        """Remove the run: its record first, because parts without a record are ignored.

        Files with other names are not ours, and stay.
        """
        (self.folder / _RUN).unlink(missing_ok=True)
        for path in (*map(self.path, self.done()), *self.folder.glob(f".*{_PENDING}")):
            path.unlink(missing_ok=True)


@contextmanager
def opened_folder(
    output: Path, job: BulkJob, record: RunRecord, *, overwrite: bool
) -> Iterator[PartFolder]:
    """Open the folder of a new run for this output, or of the run to continue.

    The folder is removed at the end, unless the run ends with an exception.

    Args:
        output: the file to make.
        job: what to do; a continued run keeps the size of its parts.
        record: of that job.
        overwrite: replace the output, and discard a run with other settings.

    Raises:
        UsageError: the output exists, or the folder holds a run with other settings.
        BundleError: another process is making this output.
    """
    folder = output.with_name(f"{output.name}.parts")
    _require_place(output)
    if output.exists() and not (folder / _RUN).exists() and not overwrite:
        raise UsageError(
            f"{output} exists already. Choose another {option('output')}, or "
            f"replace it with {option('overwrite', True)}."
        )
    folder.mkdir(exist_ok=True)
    with exclusive(folder):
        parts = PartFolder(folder=folder, job=job)
        known = RunRecord.load(folder / _RUN) if (folder / _RUN).exists() else None
        differences = known.differences(record) if known else ["its record cannot be read"]
        if (folder / _RUN).exists() and not differences and known:
            parts = replace(parts, job=replace(job, part=known.part))
        else:
            if (folder / _RUN).exists() and not overwrite:
                raise UsageError(
                    f"{folder} holds a run with other settings: {'; '.join(differences)}. "
                    f"Continue it with the settings it was begun with, or discard it with "
                    f"{option('overwrite', True)}."
                )
            parts.clear()
            pending = parts.pending(_RUN)
            pending.write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
            publish(pending, folder / _RUN)
        yield parts
        parts.clear()
    with suppress(OSError):  # another run for this output has begun
        (folder / LOCK).unlink(missing_ok=True)
        folder.rmdir()


def publish(pending: Path, final: Path) -> None:
    """Sync a written file to the disk, then rename it to its final name."""
    fsync(pending)
    pending.replace(final)
    fsync(final.parent)


def _require_place(output: Path) -> None:
    if output.is_dir():
        raise UsageError(
            f"{output} is a directory; expected {option('output')} as a file's name."
        )
    if not output.parent.is_dir():
        found = "a file" if output.parent.exists() else "nothing"
        raise UsageError(
            f"Expected a directory at {output.parent}, found {found}. Make it, or choose "
            f"another {option('output')}."
        )

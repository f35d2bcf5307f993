"""Finished parts of a run: their columns, and the folder that holds them meanwhile."""

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

from isogon.bulk.job import Job, RunRecord
from isogon.bundle.stage import LOCK, exclusive, fsync
from isogon.errors import UsageError
from isogon.images import Images
from isogon.images.classes import as_unicode
from isogon.model import Answers

COMPRESSION = "zstd"
_UNREADABLE = b"isogon.unreadable"  # in a part's metadata: [[name, reason], ...]


def schema(width: int, *, labelled: bool) -> pa.Schema:
    """Return the columns of parts and of the whole.

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
        """Put the answers into columns.

        Args:
            images: the source.
            seen: the images that were run, in order.
            answers: of the batches that hold them.
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
        """Return it as a Parquet file."""
        noted = {_UNREADABLE: json.dumps(self.unreadable).encode()}
        file = io.BytesIO()
        rows = self.rows.replace_schema_metadata(noted)
        pq.write_table(rows, file, compression=COMPRESSION)
        return file.getvalue()

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read it back.

        Raises:
            UsageError: the file is damaged.
        """
        try:
            rows = pq.ParquetFile(path).read(use_threads=False)
            noted = json.loads(rows.schema.metadata[_UNREADABLE])
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
            raise UsageError(
                f"{path} is damaged: {error}. Remove it and run again; its images are "
                f"then embedded once more."
            ) from error
        return cls(rows=rows, unreadable=[(name, reason) for name, reason in noted])


_RUN = "run.json"
_PENDING = ".pending"


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """One file per finished part; a file is complete or absent."""

    folder: Path
    job: Job

    def done(self) -> list[int]:
        """Return the numbers of the finished parts."""
        found = (
            re.fullmatch(r"part-(\d+)\.parquet", p.name) for p in self.folder.iterdir()
        )
        return sorted(int(match[1]) for match in found if match)

    def path(self, number: int) -> Path:
        """Return where a part is kept."""
        return self.folder / f"part-{number:05}.parquet"

    def pending(self, name: str) -> Path:
        """Return where to write a file that is to appear whole."""
        return self.folder / f".{name}{_PENDING}"

    def write(self, number: int, content: bytes) -> None:
        """Keep a finished part."""
        pending = self.pending(self.path(number).name)
        pending.write_bytes(content)
        publish(pending, self.path(number))

    def clear(self) -> None:
        """Remove the run. Its record goes first: parts without a record are ignored.

        Files of other names are somebody else's, and stay.
        """
        (self.folder / _RUN).unlink(missing_ok=True)
        for path in (*map(self.path, self.done()), *self.folder.glob(f".*{_PENDING}")):
            path.unlink(missing_ok=True)


def publish(pending: Path, final: Path) -> None:
    """Give a written file its name, once its bytes are on the disk."""
    fsync(pending)
    pending.replace(final)
    fsync(final.parent)


@contextmanager
def opened(
    output: Path, job: Job, record: RunRecord, *, overwrite: bool
) -> Iterator[Parts]:
    """Begin a run, or continue the one that was begun for this output.

    The folder is removed at the end, unless the run ends with an exception.

    Args:
        output: the file to be made.
        job: what to do; a continued run keeps the size of its parts.
        record: of that job.
        overwrite: replace the output, and forget a run begun with something else.

    Raises:
        UsageError: there is an output already, or a run begun with something else.
        BundleError: another process is making this output.
    """
    folder = output.with_name(f"{output.name}.parts")
    _require_place(output)
    if output.exists() and not (folder / _RUN).exists() and not overwrite:
        raise UsageError(
            f"{output} exists already. Choose another --output, or replace it with "
            f"--overwrite."
        )
    folder.mkdir(exist_ok=True)
    with exclusive(folder):
        parts = Parts(folder=folder, job=job)
        known = _record_in(folder)
        differences = known.differences(record) if known else ["its record is not ours"]
        if (folder / _RUN).exists() and not differences and known:
            parts = replace(parts, job=replace(job, part=known.part))
        else:
            if (folder / _RUN).exists() and not overwrite:
                raise UsageError(
                    f"{folder} holds a run that was begun with something else: "
                    f"{'; '.join(differences)}. Continue it as it was begun, or forget it "
                    f"with --overwrite."
                )
            parts.clear()
            pending = parts.pending(_RUN)
            pending.write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
            publish(pending, folder / _RUN)
        yield parts
        parts.clear()
    with suppress(OSError):  # another run of the same name has begun
        (folder / LOCK).unlink(missing_ok=True)
        folder.rmdir()


def _record_in(folder: Path) -> RunRecord | None:
    path = folder / _RUN
    return RunRecord.load(path) if path.exists() else None


def _require_place(output: Path) -> None:
    if output.is_dir():
        raise UsageError(f"{output} is a directory; expected --output as a file's name.")
    if not output.parent.is_dir():
        found = "a file" if output.parent.exists() else "nothing"
        raise UsageError(
            f"Expected a directory at {output.parent}, found {found}. Make it, or choose "
            f"another --output."
        )

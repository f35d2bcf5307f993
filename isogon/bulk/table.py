"""The columns of the Parquet file, and what a finished part holds beside them."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

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

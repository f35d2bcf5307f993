"""A bulk run: from a source of images to one Parquet file."""

import csv
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from isogon.bulk.executors import Executor
from isogon.bulk.job import BulkJob, RunRecord, isogon_version, part_size
from isogon.bulk.parts import (
    COMPRESSION,
    PartFolder,
    PartTable,
    opened_folder,
    publish,
    schema,
)
from isogon.bulk.worker import manifest_of, opened_model
from isogon.bundle import ONNX
from isogon.errors import UsageError
from isogon.images import open_images
from isogon.model import Model
from isogon.progress import Progress

_HEADER = ("name", "reason")  # of the list of unreadable images
_GROUP = 64 * 2**20  # bytes of embeddings in a row group, which is held in memory

# Images per run of the model. A larger batch gains little on a CPU, and more on a GPU.
_CPU_BATCH, _GPU_BATCH = 8, 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """The figures of a finished run."""

    output: Path
    images: int
    embedded: int
    unreadable: int
    passed_over: int  # files of the source that are hidden or not images
    unreadable_list: Path | None  # CSV of name and reason; None if all were readable
    flagged: int  # embedded images flagged as out of distribution
    alpha: float
    width: int
    fingerprint: str  # of the artifact
    runner: str
    continued: int  # images that an earlier start has embedded
    seconds: float  # of this start, without checking and merging

    @property
    def unreadable_share(self) -> float:
        """Share of the images that could not be read."""
        return self.unreadable / self.images

    @property
    def images_per_second(self) -> float | None:
        """The speed of this start; None if nothing was left to do."""
        done = self.images - self.continued
        return done / self.seconds if done else None

    def document(self) -> dict[str, object]:
        """Return the summary as a JSON document."""
        listed = self.unreadable_list
        return {
            "output": str(self.output),
            "images": self.images,
            "embedded": self.embedded,
            "unreadable": self.unreadable,
            "passed_over": self.passed_over,
            "unreadable_list": None if listed is None else str(listed),
            "flagged": self.flagged,
            "alpha": self.alpha,
            "width": self.width,
            "fingerprint": self.fingerprint,
            "runner": self.runner,
            "continued": self.continued,
            "seconds": self.seconds,
            "images_per_second": self.images_per_second,
        }


def embed(
    bundle: Path,
    source: str,
    output: Path,
    progress: Progress,
    *,
    executor: Executor,
    artifact: str = ONNX,
    batch: int | None = None,
    overwrite: bool = False,
) -> Summary:
    """Embed every image of a source into one Parquet file.

    The columns are `name` (unique), `label` where the images have classes, `embedding`
    (float32, unit norm), `ood_score`, `p_value` and `is_ood`; the rows are in the
    source's order; the metadata names the artifact. Unreadable images are listed in
    `OUTPUT.unreadable.csv` and do not stop the run. Finished parts are kept in
    `OUTPUT.parts` until the end: a run that was stopped or killed continues from them when
    it is started again, and its output has the same bytes as an uninterrupted run's.

    Args:
        bundle: the bundle's directory.
        source: what `isogon.images.open_images` takes.
        output: the Parquet file to make.
        progress: where to show progress.
        executor: where the work is done.
        artifact: of the bundle.
        batch: images per run of the model; None for what suits the device.
        overwrite: replace what is at `output`.

    Raises:
        UsageError: no such images, `output` exists or has the suffix of another format,
            its unfinished run has other settings, or a worker died.
        BundleError: the bundle is damaged, or nothing vouches for its artifact.
        CheckFailedError: the golden images do not come out as they should.
    """
    _require_parquet(output)
    listing = progress.add_task("Listing images", total=None)
    images = open_images(os.path.abspath(Path(source).expanduser()))  # noqa: PTH100
    model = opened_model(bundle, artifact)
    images = images.ranging(model.preprocessing.range)
    if batch is None:
        batch = _GPU_BATCH if model.on_device else _CPU_BATCH
    job = BulkJob(
        bundle=bundle.absolute(),
        artifact=artifact,
        fingerprint=model.fingerprint,
        version=isogon_version(),
        images=images,
        batch=batch,
        part=part_size(len(images), batch),
        decoders=executor.decoders(on_gpu=model.on_device),
    )
    record = RunRecord.of(job, model)
    metadata = _metadata(model, job)
    manifest, alpha = manifest_of(model), model.calibration.alpha
    del model  # frees its memory on the device for the workers
    progress.remove_task(listing)
    images.say(progress)
    with opened_folder(output, job, record, overwrite=overwrite) as parts:
        job = parts.job
        done = set(parts.done())
        missing = [part for part in job.parts if part not in done]
        continued = sum(len(job.indices(part)) for part in done)
        task = progress.add_task("Embedding", total=len(images), completed=continued)
        start = time.perf_counter()
        if missing:
            with closing(executor.run(job, missing)) as finished:
                for part, content in finished:
                    parts.write(part, content)
                    progress.advance(task, len(job.indices(part)))
        seconds = time.perf_counter() - start
        merged = merge(parts, output, width=manifest.width, metadata=metadata)
    return Summary(
        output=output,
        images=len(images),
        embedded=merged.rows,
        unreadable=merged.unreadable,
        passed_over=sum(each.count for each in images.passed_over),
        unreadable_list=merged.unreadable_list,
        flagged=merged.flagged,
        alpha=alpha,
        width=manifest.width,
        fingerprint=job.fingerprint,
        runner=record.runner,
        continued=continued,
        seconds=seconds,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Merged:
    """The counts of the output."""

    rows: int
    flagged: int
    unreadable: int
    unreadable_list: Path | None


def merge(
    parts: PartFolder, output: Path, *, width: int, metadata: Mapping[str, str]
) -> Merged:
    """Write the rows of all parts in order; both files appear complete or not at all.

    Args:
        parts: all of them finished.
        output: the Parquet file.
        width: of the embedding.
        metadata: of the Parquet file.

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


def _require_parquet(output: Path) -> None:
    """Refuse an output with the suffix of another format; no suffix is accepted."""
    if output.suffix.lower() not in ("", ".parquet", ".pq"):
        raise UsageError(
            f"Expected an output that ends in .parquet, got {output}: Parquet is the only "
            f"format that is written. Write to {output.with_suffix('.parquet')}; DuckDB "
            f"and pandas convert it to other formats."
        )


def _metadata(model: Model, job: BulkJob) -> dict[str, str]:
    """Return the output's metadata; every key begins with `isogon.`."""
    manifest = manifest_of(model)
    found = {
        "bundle": manifest.name,
        "artifact": job.artifact,
        "fingerprint": job.fingerprint,
        "width": str(manifest.width),
        "preprocessing": manifest.preprocessing.model_dump_json(),
        "alpha": str(model.calibration.alpha),
        "version": job.version,
    }
    return {f"isogon.{key}": value for key, value in found.items()}


def _is_ours(listed: Path) -> bool:
    with listed.open(encoding="utf-8", errors="replace", newline="") as file:
        return next(csv.reader(file), None) == list(_HEADER)


def _groups(tables: Iterator[pa.Table], size: int) -> Iterator[pa.Table]:
    """Yield the same rows in tables of `size` rows; the last may be shorter, none empty."""
    held: pa.Table | None = None
    for table in tables:
        held = table if held is None else pa.concat_tables([held, table])
        while len(held) >= size:
            yield held.slice(0, size).combine_chunks()
            held = held.slice(size)
    if held is not None and len(held):
        yield held.combine_chunks()

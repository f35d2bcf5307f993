"""A whole bulk run: from a source of images to one Parquet file."""

import os
import time
from contextlib import closing
from pathlib import Path

from rich.progress import Progress

from isogon.bulk.engines import Engine
from isogon.bulk.job import Job, isogon_version, part_size
from isogon.bulk.merging import merge
from isogon.bulk.model import manifest_of, opened_model
from isogon.bulk.parts import opened
from isogon.bulk.run_record import RunRecord
from isogon.bulk.summary import Summary
from isogon.bundle import ONNX
from isogon.images import open_images
from isogon.model import Model

# Per run of the model. On the CPU more gains little; a GPU wants to be filled.
_CPU_BATCH, _GPU_BATCH = 8, 64


def embed(
    bundle: Path,
    source: str,
    output: Path,
    progress: Progress,
    *,
    engine: Engine,
    artifact: str = ONNX,
    batch: int | None = None,
    overwrite: bool = False,
) -> Summary:
    """Embed every image of a source into one Parquet file.

    The columns are `name` (unique), `label` where the images have classes, `embedding`
    (float32, unit norm), `ood_score`, `p_value` and `is_ood`; the rows are in the
    source's order; the metadata says which artifact made them. Images that cannot be
    read are listed in `OUTPUT.unreadable.csv` and stop nothing. Finished parts lie in
    `OUTPUT.parts` until all are there: a run that was stopped, however hard, goes on
    from there when it is started again, and ends with the same bytes.

    Args:
        bundle: the bundle's directory.
        source: what `isogon.images.open_images` takes.
        output: the Parquet file to make.
        progress: where to show progress.
        engine: who does the work.
        artifact: of the bundle.
        batch: images per run of the model; None for what suits the device.
        overwrite: replace what is at `output`.

    Raises:
        UsageError: no such images, something is at `output`, a run for it was begun
            with something else, or a worker died.
        BundleError: the bundle is damaged, or nothing vouches for its artifact.
        CheckFailedError: the golden images do not come out as they should.
    """
    listing = progress.add_task("Listing images", total=None)
    images = open_images(os.path.abspath(Path(source).expanduser()))  # noqa: PTH100
    model = opened_model(bundle, artifact)
    images = images.ranging(model.preprocessing.range)
    if batch is None:
        batch = _GPU_BATCH if model.on_device else _CPU_BATCH
    job = Job(
        bundle=bundle.absolute(),
        artifact=artifact,
        fingerprint=model.fingerprint,
        version=isogon_version(),
        images=images,
        batch=batch,
        part=part_size(len(images), batch),
        decoders=engine.decoders(on_gpu=model.on_device),
    )
    record = RunRecord.of(job, model)
    metadata = _metadata(model, job)
    manifest, alpha = manifest_of(model), model.calibration.alpha
    del model  # its place on the device is for the workers
    progress.remove_task(listing)
    images.say(progress)
    with opened(output, job, record, overwrite=overwrite) as parts:
        job = parts.job
        done = set(parts.done())
        missing = [part for part in job.parts if part not in done]
        continued = sum(len(job.indices(part)) for part in done)
        task = progress.add_task("Embedding", total=len(images), completed=continued)
        start = time.perf_counter()
        if missing:
            with closing(engine.run(job, missing)) as finished:
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


def _metadata(model: Model, job: Job) -> dict[str, str]:
    """Return what the file says of itself, under keys that begin with `isogon.`."""
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

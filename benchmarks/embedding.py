r"""The speed of `isogon embed` relative to a bare loop.

    python benchmarks/embedding.py --bundle quickstart.isogon --images photographs.tar \
        > benchmarks/results/embedding-cpu.md

The bare loop reads, decodes, preprocesses and runs batches of 8 with one thread of ONNX
Runtime, and keeps and reports nothing; several loops divide the images evenly. The executor
does the same and writes Parquet, part by part, to the disk as in a run. Start-up takes
seconds and is left out on both sides: the executor's clock starts when each worker has
delivered its first part. Rounds go through all columns, each time in another order; a
ratio is the median over rounds of the executor's throughput divided by the bare loop's in
the same round.

Each worker of the executor decodes on a second thread, so it takes a larger share of a busy
machine's cores. The ratio of CPU time per image depends little on other work: above 1 the
executor uses more. The CPU time of a run of one part per worker, mostly imports, is
subtracted on both sides.
"""

import argparse
import os
import random
import resource
import statistics
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass, replace
from multiprocessing import Barrier, Process, Queue, set_start_method
from multiprocessing.synchronize import Barrier as BarrierType
from pathlib import Path

import numpy as np

from isogon.bulk import ProcessExecutor
from isogon.bulk.job import BulkJob, isogon_version
from isogon.bulk.parts import PartFolder
from isogon.bulk.worker import manifest_of, model_for_job, opened_model
from isogon.bundle import ONNX
from isogon.images import ImageFolder, Images, open_images

BATCH, PART = 8, 32


def copies(images: Images, folder: Path, number: int) -> ImageFolder:
    """Write the images to a folder as files, each under `number` names."""
    folder.mkdir()
    for index in range(len(images)):
        first = folder / f"0-{index:04}.jpg"
        images.image(index).save(first, quality=90)
        for copy in range(1, number):
            os.link(first, folder / f"{copy}-{index:04}.jpg")
    return ImageFolder.list(folder)


def bare(job: BulkJob, indices: range, ready: BarrierType, times: "Queue[float]") -> None:
    """Embed these images and drop the answers; report the start and the end."""
    model = model_for_job(job)
    preprocessing = model.preprocessing
    ready.wait()
    times.put(time.perf_counter())
    for start in range(0, len(indices), job.batch):
        batch = indices[start : start + job.batch]
        model.of_pixels(
            np.stack([preprocessing.pixels(job.images.image(i)) for i in batch])
        )
    times.put(time.perf_counter())


def bare_speed(job: BulkJob, workers: int) -> float:
    """Return the images per second of `workers` bare loops."""
    ready = Barrier(workers)
    times: Queue[float] = Queue()
    share = -(-len(job.images) // workers)
    loops = [
        Process(target=bare, args=(job, part, ready, times))
        for number in range(workers)
        for part in [range(number * share, min((number + 1) * share, len(job.images)))]
    ]
    for loop in loops:
        loop.start()
    found = [times.get() for _ in range(2 * workers)]
    for loop in loops:
        loop.join()
    return len(job.images) / (max(found) - min(found))


def executor_speed(job: BulkJob, workers: int) -> float:
    """Return the images per second of the executor, its parts written as in a run."""
    with tempfile.TemporaryDirectory() as folder:
        parts = PartFolder(folder=Path(folder), job=job)
        done, start = 0, 0.0
        with closing(ProcessExecutor(workers=workers).run(job, job.parts)) as finished:
            for number, (part, content) in enumerate(finished, 1):
                parts.write(part, content)
                if number > workers:
                    done += len(job.indices(part))
                else:
                    start = time.perf_counter()
            return done / (time.perf_counter() - start)


COLUMNS = {"bare loop": bare_speed, "isogon embed": executor_speed}


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnRound:
    """The figures of one column in one round."""

    speed: float  # images per second
    cost: float  # CPU seconds, start-up included


def cpu_seconds() -> float:
    """Return the CPU time of this process and its finished children."""
    ours, theirs = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return ours.ru_utime + ours.ru_stime + theirs.ru_utime + theirs.ru_stime


def measured(name: str, job: BulkJob, workers: int) -> ColumnRound:
    """Run a column once."""
    before = cpu_seconds()
    speed = COLUMNS[name](job, workers)
    return ColumnRound(speed=speed, cost=cpu_seconds() - before)


def ratios(above: list[float], below: list[float]) -> str:
    """Return the median, the lowest and the highest ratio of two columns' rounds."""
    found = [one / other for one, other in zip(above, below, strict=True)]
    return f"{statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})"


def main() -> None:
    """Measure in rounds, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--images", required=True, help="photographs, as for isogon embed")
    parser.add_argument("--copies", type=int, default=3, help="of each photograph")
    parser.add_argument("--workers", type=int, nargs="+", default=(1, 2))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    set_start_method("spawn")
    from conditions import conditions  # imports torch, which workers do not need

    heading = conditions("onnxruntime-gpu", "pyarrow")
    model = opened_model(options.bundle, ONNX)
    size = model.preprocessing.height
    with tempfile.TemporaryDirectory() as work:
        images = copies(open_images(options.images), Path(work) / "images", options.copies)
        job = BulkJob(
            bundle=options.bundle.absolute(),
            artifact=ONNX,
            fingerprint=model.fingerprint,
            version=isogon_version(),
            images=images,
            batch=BATCH,
            part=PART,
            decoders=1,
        )
        found: dict[tuple[int, str], list[ColumnRound]] = {}
        for number in range(options.rounds):
            columns = [(workers, name) for workers in options.workers for name in COLUMNS]
            for column in random.Random(number).sample(columns, len(columns)):
                workers, name = column
                found.setdefault(column, []).append(measured(name, job, workers))
        few = {
            workers: replace(job, images=replace(images, names=images.names[:shared]))
            for workers in options.workers
            for shared in [workers * PART]
        }
        starts = {
            column: min(
                measured(column[1], few[column[0]], column[0]).cost for _ in range(3)
            )
            for column in found
        }
    print(
        f"# Bulk embedding\n\n{heading}\n\n{len(images)} JPEG photographs, "
        f"{manifest_of(model).student.architecture} at {size} pixels, batches of "
        f"{BATCH}, parts of {PART}. Medians of {options.rounds} interleaved rounds; in "
        f"brackets the lowest and the highest.\n\n"
        f"| workers | bare loop, images/s | isogon embed, images/s | ratio | "
        f"CPU time per image, ratio |\n|---|---|---|---|---|"
    )
    for workers in options.workers:
        loop, executor = (found[workers, name] for name in COLUMNS)
        speeds = [[one.speed for one in column] for column in (loop, executor)]
        costs = [
            [one.cost - starts[workers, name] for one in found[workers, name]]
            for name in COLUMNS
        ]
        print(
            f"| {workers} | {statistics.median(speeds[0]):.0f} | "
            f"{statistics.median(speeds[1]):.0f} | {ratios(speeds[1], speeds[0])} | "
            f"{ratios(costs[1], costs[0])} |"
        )


if __name__ == "__main__":
    main()

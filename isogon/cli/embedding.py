"""`isogon embed`: embed many images into one Parquet file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from isogon.cli import console
from isogon.cli.console import note, out
from isogon.cli.options import AsJson, BundlePath
from isogon.cli.tables import add_row, titled
from isogon.stage_imports import needing

if TYPE_CHECKING:
    from isogon.bulk import Executor, Summary


def embed(
    bundle: BundlePath,
    images: Annotated[
        str,
        typer.Argument(
            metavar="IMAGES",
            help="A folder; a .tar, or shards such as 'shard-{0000..0009}.tar'; a .csv, "
            ".tsv, .json or .parquet list with `path` and maybe `label`; a .txt list of "
            "paths; or Parquet with the images in `image`.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="The Parquet file to make.", show_default=False
        ),
    ],
    artifact: Annotated[
        str,
        typer.Option(
            help="The file that runs, such as onnx/model.int8.onnx, or an engine."
        ),
    ] = "onnx/model.onnx",
    batch: Annotated[
        int | None,
        typer.Option(
            help="Images per run of the model. Without it: 8 on a CPU, 64 on a GPU.",
            min=1,
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Processes, each with a model on one core; on a GPU, decoding threads. "
            "Default: one per core. With Ray: actors; default: one per core or GPU of the "
            "cluster.",
            min=1,
            show_default=False,
        ),
    ] = None,
    executor: Annotated[
        Literal["processes", "ray"],
        typer.Option(help="Where the work is done: on this machine, or on a Ray cluster."),
    ] = "processes",
    address: Annotated[
        str | None,
        typer.Option(
            help="The Ray cluster's address, such as `auto`. Without it, one is started "
            "on this machine for this run.",
            envvar="RAY_ADDRESS",
            show_default=False,
        ),
    ] = None,
    unreadable_limit: Annotated[
        float,
        typer.Option(
            help="The largest share of unreadable images; above it the exit status is 1.",
            min=0,
            max=1,
        ),
    ] = 0.1,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace OUTPUT, and discard a stopped run that had other settings.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Embed a folder or a list of images into one Parquet file.

    A row has `name`, `label` (where images have classes), `embedding`, `ood_score`,
    `p_value` and `is_ood`; rows keep the source's order. It opens in pandas, DuckDB and
    LanceDB; `examples/search.py` searches it.

    **Stopped?** Run the same command again: it continues from the parts in OUTPUT.parts,
    and the output has the same bytes as an uninterrupted run.

    **Images** are recognised by their suffix or first bytes. Hidden files and files of
    other kinds are counted, and the first few are named.

    **Unreadable images** do not stop the run. They are listed in OUTPUT.unreadable.csv.
    The exit status is 1 if their share is above --unreadable-limit.

    **Several machines:** `--executor ray --address auto` on a Ray cluster. Every machine
    needs the bundle and the images under the same paths, and the same version of Isogon.
    The output is written on this machine. If a machine's files differ or are missing, it
    is named and other machines do its parts; the command fails if none is left.
    """
    from isogon import api

    try:
        with console.progress(rate=True) as progress:
            summary = api.embed(
                bundle,
                images,
                output,
                executor=_executor(executor, workers, address),
                artifact=artifact,
                batch=batch,
                overwrite=overwrite,
                progress=progress,
            )
    except (KeyboardInterrupt, SystemExit):
        console.note("Stopped. Run the same command again to continue.")
        raise
    if as_json:
        console.as_json(summary.document())
    else:
        show_embedded(summary)
    if summary.unreadable_share > unreadable_limit:
        console.note(
            f"{summary.unreadable_share:.1%} of the images are unreadable, more than "
            f"--unreadable-limit {unreadable_limit:g}."
        )
        raise typer.Exit(1)


def show_embedded(summary: "Summary") -> None:
    """Print the figures of a run, and the path of the list of unreadable images."""
    table = titled(str(summary.output), "", "")
    table.show_header = False
    add_row(table, "images", f"{summary.images:,}")
    if summary.continued:
        add_row(table, "done by an earlier run", f"{summary.continued:,}")
    add_row(table, f"embedded, width {summary.width}", f"{summary.embedded:,}")
    flagged = f"{summary.flagged:,}"
    if summary.embedded:
        flagged += f" ({summary.flagged / summary.embedded:.1%})"
    add_row(table, f"unfamiliar, p at most {summary.alpha:g}", flagged)
    add_row(table, "unreadable", f"{summary.unreadable:,}")
    if summary.passed_over:
        add_row(table, "skipped: hidden, or not images", f"{summary.passed_over:,}")
    if summary.images_per_second is not None:
        add_row(table, "images per second", f"{summary.images_per_second:,.0f}")
    add_row(table, "runner", summary.runner)
    add_row(table, "artifact", f"{summary.fingerprint[:12]}…")
    out.print(table)
    if summary.unreadable_list is not None:
        note(f"Unreadable images, with reasons: {summary.unreadable_list}")


def _executor(name: str, workers: int | None, address: str | None) -> "Executor":
    with needing("bulk"):
        from isogon.bulk import ProcessExecutor
    if name == "ray":
        # It imports Ray only when it runs.
        from isogon.bulk.executors.cluster import RayExecutor

        return RayExecutor(workers=workers, address=address)
    from isogon.runtimes.device import usable_cores

    return ProcessExecutor(workers=workers or usable_cores())

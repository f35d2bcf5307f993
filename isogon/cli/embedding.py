"""`isogon embed`: many images to one Parquet file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from isogon.cli import console
from isogon.cli.console import note, out
from isogon.cli.options import AsJson, BundlePath
from isogon.cli.tables import add_row, titled

if TYPE_CHECKING:
    from isogon.bulk import Engine, Summary


def embed(
    bundle: BundlePath,
    images: Annotated[
        str,
        typer.Argument(
            metavar="IMAGES",
            help="A folder; a .tar, or shards such as 'shard-{0000..0009}.tar'; a .csv, "
            ".tsv, .jsonl or .parquet list with `path` and maybe `label`; a .txt list of "
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
        typer.Option(help="What to run, such as onnx/model.int8.onnx, or an engine."),
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
            help="Processes, each with a model on one core; on a GPU, threads that "
            "decode. Without it: one per core. With Ray: actors; without it, one per "
            "core or GPU of the cluster.",
            min=1,
            show_default=False,
        ),
    ] = None,
    engine: Annotated[
        Literal["processes", "ray"],
        typer.Option(help="Who does the work: this machine, or a Ray cluster."),
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
            help="The largest share of images that may be unreadable; beyond it the exit "
            "status is 1.",
            min=0,
            max=1,
        ),
    ] = 0.1,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace OUTPUT, and forget a stopped run that was begun otherwise.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Embed a folder or a list of images into one Parquet file.

    A row has `name`, `label` (where images have classes), `embedding`, `ood_score`,
    `p_value` and `is_ood`; rows keep the source's order. It opens in pandas, DuckDB and
    LanceDB; `examples/search.py` searches it.

    **Stopped?** Run the same command again: it goes on from the parts in OUTPUT.parts,
    and ends with the same bytes, whatever stopped it.

    **What is an image** is told by its suffix or its first bytes; hidden files and others
    are counted and the first of them named.

    **Unreadable images** stop nothing. They are listed in OUTPUT.unreadable.csv; exit
    status 1 if they are more than --unreadable-limit.

    **Several machines:** `--engine ray --address auto` on a Ray cluster. The bundle and
    the images must lie under the same paths on every machine, with the same Isogon; the
    file is written here. A machine whose copies differ or are missing is named, and
    others do its parts; where none is left the command fails.
    """
    _require_parquet(output)
    from isogon import api

    try:
        with console.needing("bulk"), console.progress(rate=True) as progress:
            summary = api.embed(
                bundle,
                images,
                output,
                engine=_engine(engine, workers, address),
                artifact=artifact,
                batch=batch,
                overwrite=overwrite,
                progress=progress,
            )
    except (KeyboardInterrupt, SystemExit):
        console.note("Stopped. Run the same command again: it goes on where it was.")
        raise
    if as_json:
        console.as_json(summary.document())
    else:
        show_embedded(summary)
    if summary.unreadable_share > unreadable_limit:
        console.note(
            f"{summary.unreadable_share:.1%} of the images cannot be read, more than "
            f"--unreadable-limit {unreadable_limit:g}."
        )
        raise typer.Exit(1)


def _require_parquet(output: Path) -> None:
    """Refuse a name of another format; one without a suffix promises none."""
    if output.suffix.lower() in ("", ".parquet", ".pq"):
        return
    from isogon.errors import UsageError

    raise UsageError(
        f"Expected an output that ends in .parquet, got {output}: `isogon embed` writes "
        f"Parquet and no other format. Write to {output.with_suffix('.parquet')}; DuckDB "
        f"and pandas turn it into others."
    )


def _engine(name: str, workers: int | None, address: str | None) -> "Engine":
    if name == "ray":
        from isogon.bulk.engines.cluster import RayEngine  # imports Ray only when it runs

        return RayEngine(workers=workers, address=address)
    from isogon.bulk import ProcessEngine
    from isogon.runtimes.device import usable_cores

    return ProcessEngine(workers=workers or usable_cores())


def show_embedded(summary: "Summary") -> None:
    """Print the figures of a run, and where the unreadable images are listed."""
    table = titled(str(summary.output), "", "")
    table.show_header = False
    add_row(table, "images", f"{summary.images:,}")
    if summary.continued:
        add_row(table, "done by an earlier start", f"{summary.continued:,}")
    add_row(table, f"embedded, width {summary.width}", f"{summary.embedded:,}")
    flagged = f"{summary.flagged:,}"
    if summary.embedded:
        flagged += f" ({summary.flagged / summary.embedded:.1%})"
    add_row(table, f"unfamiliar, p at most {summary.alpha:g}", flagged)
    add_row(table, "unreadable", f"{summary.unreadable:,}")
    if summary.passed_over:
        add_row(table, "passed over: hidden, or no images", f"{summary.passed_over:,}")
    if summary.images_per_second is not None:
        add_row(table, "images per second", f"{summary.images_per_second:,.0f}")
    add_row(table, "runner", summary.runner)
    add_row(table, "artifact", f"{summary.fingerprint[:12]}…")
    out.print(table)
    if summary.unreadable_list is not None:
        note(f"What could not be read, and why: {summary.unreadable_list}")

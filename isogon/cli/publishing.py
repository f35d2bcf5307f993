"""`isogon publish`: a bundle in BentoML's model store."""

from typing import Annotated

import typer

from isogon.cli import console
from isogon.cli.options import AsJson, BundlePath


def publish(
    bundle: BundlePath,
    tag: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[:VERSION]",
            help="Without it: the bundle's name, and a version that follows from its "
            "content.",
            show_default=False,
        ),
    ] = None,
    bento: Annotated[
        bool,
        typer.Option(
            "--bento",
            help="Also build a Bento that holds the bundle; `bentoml containerize` makes "
            "an image of it.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Put a bundle in BentoML's model store, from which `bentoml` serves and ships it.

    Only a bundle that reproduces its golden images here is taken. Publishing it again
    changes nothing. Serve it with `isogon serve bentoml:NAME[:VERSION]`, or with
    ISOGON_BUNDLE=bentoml:NAME[:VERSION] and `bentoml serve`. BENTOML_HOME says where
    the store is.
    """
    from serving.bento.building import bento_with
    from serving.publishing import publish as run

    with console.progress() as progress:
        published = run(bundle, progress, tag=tag)
        if bento:
            task = progress.add_task("Building the Bento", total=1)
        built = bento_with(published) if bento else None
        if bento:
            progress.update(task, advance=1)
    if as_json:
        console.as_json(
            {
                "tag": published.tag,
                "path": str(published.path),
                "bytes": published.bytes,
                "already": published.already,
                "bento": built,
            }
        )
    else:
        console.published(published, bento=built)

"""`isogon publish`, `push`, `pull`: to BentoML's store; to and from a hub."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from isogon.cli import console
from isogon.cli.console import out
from isogon.cli.options import AsJson, BundlePath

if TYPE_CHECKING:
    from serving.publishing import Published

_REPOSITORY = typer.Argument(metavar="USER/NAME", help="A model repository on the hub.")


def publish(
    bundle: BundlePath,
    tag: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[:VERSION]",
            help="Without it: the bundle's name, and a version computed from its content.",
            show_default=False,
        ),
    ] = None,
    bento: Annotated[
        bool,
        typer.Option(
            "--bento",
            help="Also build a Bento that holds the bundle; `bentoml containerize` makes a "
            "container image of it.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Put a bundle into BentoML's model store, from which `bentoml` serves and ships it.

    The bundle must reproduce its golden images on this machine. Publishing it again
    changes nothing. Serve it with `isogon serve bentoml:NAME[:VERSION]`, or with
    ISOGON_BUNDLE=bentoml:NAME[:VERSION] and `bentoml serve`. BENTOML_HOME is the store's
    folder.
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
        show_published(published, bento=built)


def push(
    bundle: BundlePath,
    repository: Annotated[str, _REPOSITORY],
    public: Annotated[
        bool,
        typer.Option("--public", help="If the repository is created, make it public."),
    ] = False,
    message: Annotated[
        str | None, typer.Option(help="The commit message.", show_default=False)
    ] = None,
) -> None:
    """Upload a bundle and its model card to Hugging Face's hub, in one commit.

    If the repository does not exist, it is created, private unless --public is given. Log
    in first with `hf auth login`, or set HF_TOKEN; HF_ENDPOINT names another hub. The
    model card is what `isogon card` prints.
    """
    from isogon import api

    print(api.push(bundle, repository, private=not public, message=message))


def pull(
    repository: Annotated[str, _REPOSITORY],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The bundle to make. [default: NAME.isogon]",
            show_default=False,
        ),
    ] = None,
    revision: Annotated[str, typer.Option(help="Branch, tag or commit.")] = "main",
) -> None:
    """Download a bundle from Hugging Face's hub; every hash is checked.

    Only files in the manifest are downloaded. The bundle appears complete or not at all.
    """
    from isogon import api

    print(api.pull(repository, output=output, revision=revision).path)


def show_published(found: "Published", *, bento: str | None) -> None:
    """Print the tags, and the commands that use them."""
    verb = "is already" if found.already else "is now"
    lines = [
        f"{found.tag} {verb} in BentoML's model store: {found.path}, "
        f"{found.bytes / 1e6:,.1f} MB",
        f"  isogon serve bentoml:{found.tag}",
    ]
    if bento is not None:
        lines += [
            f"{bento} is a Bento that holds it",
            f"  bentoml containerize {bento}",
        ]
    out.print("\n".join(lines), markup=False, soft_wrap=True)

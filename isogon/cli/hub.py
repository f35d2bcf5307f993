"""`isogon push` and `isogon pull`: bundles on Hugging Face's hub."""

from pathlib import Path
from typing import Annotated

import typer

from isogon.cli import console
from isogon.cli.options import BundlePath

_REPOSITORY = typer.Argument(metavar="USER/NAME", help="A model repository on the hub.")


def push(
    bundle: BundlePath,
    repository: Annotated[str, _REPOSITORY],
    public: Annotated[
        bool,
        typer.Option("--public", help="Where the repository is made: for everybody."),
    ] = False,
    message: Annotated[
        str | None, typer.Option(help="Of the commit.", show_default=False)
    ] = None,
) -> None:
    """Upload a bundle and its model card to Hugging Face's hub, in one commit.

    The repository is made where there is none, private without --public. Log in before
    with `hf auth login`, or set HF_TOKEN; HF_ENDPOINT names another hub. The card is what
    `isogon card` prints.
    """
    with console.needing("hub"):
        from isogon.hub import push as run

        print(run(bundle, repository, private=not public, message=message))


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
    revision: Annotated[str, typer.Option(help="A branch, a tag or a commit.")] = "main",
) -> None:
    """Download a bundle from Hugging Face's hub; every hash is checked.

    Only what the manifest names is downloaded. A bundle appears whole, or not at all.
    """
    with console.needing("hub"):
        from isogon.hub import pull as run

        name = repository.rpartition("/")[2].removesuffix(".isogon")
        print(run(repository, output or f"{name}.isogon", revision=revision).path)

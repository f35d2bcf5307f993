"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's directory.")]


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]


Bounds = Annotated[
    list[str] | None,
    typer.Option(
        "--bound",
        metavar="[PRECISION.]NAME=VALUE",
        help="Another bound of the gate, such as int8.min_cosine=0.98. May be given "
        "several times.",
        show_default=False,
    ),
]


MoreImages = Annotated[
    Path | None,
    typer.Option(
        "--images",
        help="More real images to compare on, beside the bundle's own.",
        show_default=False,
    ),
]

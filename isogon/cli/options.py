"""Arguments and options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's directory.")]

OF_RECIPE = "The recipe"  # the help panel of options that are keys of a recipe

Unfamiliar = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[NAME[:near|far]=]SOURCE",
        help="Images the OOD score should flag. May be given several times.",
        show_default=False,
        rich_help_panel=OF_RECIPE,
    ),
]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]

Bounds = Annotated[
    list[str] | None,
    typer.Option(
        "--bound",
        metavar="[PRECISION.]NAME=VALUE",
        help="Replace a bound of the parity check, such as int8.min_cosine=0.98. May be "
        "given several times.",
        show_default=False,
    ),
]

MoreImages = Annotated[
    str | None,
    typer.Option(
        "--images",
        metavar="SOURCE",
        help="More real images (a folder, tars, a list, Parquet) to compare on, besides "
        "the bundle's own.",
        show_default=False,
    ),
]

"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's directory.")]


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]

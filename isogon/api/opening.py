"""What every function of the API does with its arguments."""

from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from isogon.bundle import Bundle
from isogon.bundle.manifest import Stage

Place = str | Path


def opened_bundle(bundle: Place | Bundle, *rewriting: Stage) -> Bundle:
    """Open a bundle for reading, or for stages that replace their files."""
    path = bundle.path if isinstance(bundle, Bundle) else Path(bundle)
    return Bundle.open(path, rewriting=rewriting)


def shown(progress: Progress | None) -> Progress:
    """Return where progress is shown; None: nowhere."""
    return progress or Progress(console=Console(quiet=True), disable=True)

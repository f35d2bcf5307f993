"""What every function of the API does with its arguments."""

from pathlib import Path

from isogon.bundle import Bundle
from isogon.bundle.manifest import Stage
from isogon.progress import Progress, Silent

Place = str | Path


def opened_bundle(bundle: Place | Bundle, *rewriting: Stage) -> Bundle:
    """Open a bundle for reading, or for stages that replace their files."""
    path = bundle.path if isinstance(bundle, Bundle) else Path(bundle)
    return Bundle.open(path, rewriting=rewriting)


def shown(progress: Progress | None) -> Progress:
    """Return where progress is shown; None: nowhere."""
    return progress or Silent()

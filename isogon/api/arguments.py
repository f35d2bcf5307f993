"""Arguments that all functions of the API have: a bundle or its path, and `progress`."""

from pathlib import Path

from isogon.bundle import Bundle
from isogon.bundle.manifest import Stage
from isogon.progress import Progress, Silent

Place = str | Path


def opened_bundle(bundle: Place | Bundle, *rewriting: Stage) -> Bundle:
    """Open a bundle again, to read it or to let these stages replace their files."""
    path = bundle.path if isinstance(bundle, Bundle) else Path(bundle)
    return Bundle.open(path, rewriting=rewriting)


def shown(progress: Progress | None) -> Progress:
    """Return where to show progress; None: nowhere."""
    return progress or Silent()

"""Arguments that functions of the API share: a bundle or its path, texts, `progress`."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from isogon.bundle import Bundle
from isogon.bundle.manifest import Stage
from isogon.errors import UsageError, option
from isogon.progress import Progress, Silent

Place = str | Path


def path_of(bundle: Place | Bundle) -> Path:
    """Return the directory of a bundle that is given by its path, or opened.

    Raises:
        UsageError: it is neither.
    """
    if isinstance(bundle, Bundle):
        return bundle.path
    if not isinstance(bundle, str | Path):
        raise UsageError(f"Expected one bundle, or its path as text, got {bundle!r}.")
    return Path(bundle)


def opened_bundle(bundle: Place | Bundle, *rewriting: Stage) -> Bundle:
    """Open a bundle again, to read it or to let these stages replace their files."""
    return Bundle.open(path_of(bundle), rewriting=rewriting)


def source_of(images: Place) -> str:
    """Return a source of images as text.

    Raises:
        UsageError: it is neither a text nor a path.
    """
    if not isinstance(images, str | Path):
        raise UsageError(
            f"Expected a folder, a tar or a list file of images, got {images!r}. To name "
            f"images one by one, write their paths to a .txt file."
        )
    return str(images)


def texts(given: str | Sequence[str]) -> tuple[str, ...]:
    """Return several texts as a tuple; a single one needs no list.

    Raises:
        UsageError: it is neither.
    """
    if isinstance(given, str):
        return (given,)
    if not isinstance(given, Iterable):
        raise UsageError(f"Expected a text or a list of texts, got {given!r}.")
    return tuple(given)


def require_counts(**counts: int | None) -> None:
    """Raise `UsageError` unless each is at least 1, or None."""
    for name, count in counts.items():
        if count is not None and not (isinstance(count, int) and count >= 1):
            raise UsageError(
                f"Expected {option(name)} as a whole number of at least 1, or None for the "
                f"default; got {count!r}."
            )


def shown(progress: Progress | None) -> Progress:
    """Return where to show progress; None: nowhere."""
    return progress or Silent()


def write_text(path: Path, text: str, *, replace: bool) -> None:
    """Write a text to the file that a caller's `output` names.

    Args:
        path: the file.
        text: its content.
        replace: whether an existing file is replaced.

    Raises:
        UsageError: it exists and is not replaced, or it cannot be written.
    """
    try:
        with path.open("w" if replace else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise UsageError(
            f"{path} exists already, and is never overwritten. Choose another "
            f"{option('output')}, or remove it."
        ) from error
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written: {error.strerror}. Choose another "
            f"{option('output')}."
        ) from error

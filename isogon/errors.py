"""The errors of Isogon.

Each message says what was expected, what came, and what to do. The command line
prints the message alone and ends with the class's `exit_code`. A message names an argument
by `option`: its keyword in Python, its option at the command line.

    IsogonError                   2
    ├── UsageError                2  an argument, a recipe or a data folder
    │   └── ProcessError             a process of several, or one that it has lost
    ├── ImageError                2  bytes that are not an accepted image
    ├── BundleError               2  a directory that is not a usable bundle
    │   ├── AppendOnlyError          rule 1: another stage's file would be rewritten
    │   ├── DamagedFileError         rule 2: a file does not match the manifest
    │   ├── ForbiddenFileError       rule 3: a kind of file that could execute
    │   ├── EngineMismatchError      rule 3: an engine built for another machine
    │   ├── UnvouchedArtifactError   rules 4 and 5: no parity report or calibration
    │   └── SchemaVersionError       rule 6: a format that this version does not read
    └── CheckFailedError          1  parity or the golden check (rule 7) found a difference
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, ClassVar


class IsogonError(Exception):
    """The base of all errors of Isogon, with a message for the user."""

    exit_code: ClassVar[int] = 2


class UsageError(IsogonError):
    """An argument, a recipe or a data folder that cannot be used."""


class ProcessError(UsageError):
    """One of several processes failed, or lost contact with another."""


class ImageProblem(StrEnum):
    """Why bytes were refused as an image."""

    UNDECODABLE = "undecodable"
    UNSUPPORTED = "unsupported"
    TOO_LARGE = "too_large"


class ImageError(IsogonError):
    """Bytes that are not an accepted image; `problem` is the kind of reason."""

    def __init__(self, problem: ImageProblem, message: str) -> None:
        super().__init__(message)
        self.problem = problem


class BundleError(IsogonError):
    """A directory that is not a bundle, or a bundle that cannot be used."""


class AppendOnlyError(BundleError):
    """A stage tried to rewrite a file that belongs to another stage."""


class DamagedFileError(BundleError):
    """A file is missing, or does not match its hash in the manifest."""


class ForbiddenFileError(BundleError):
    """A file that could be executed, or that is outside the bundle."""


class EngineMismatchError(BundleError):
    """An engine for another GPU or TensorRT, or on a machine without a GPU."""


class UnvouchedArtifactError(BundleError):
    """No parity report, or no calibration, is for this artifact's hash."""


class SchemaVersionError(BundleError):
    """This version of Isogon does not read the manifest's schema."""


class CheckFailedError(IsogonError):
    """A check found a difference beyond its bounds."""

    exit_code: ClassVar[int] = 1


_NO_VALUE: Any = object()
# Keywords of `isogon`'s functions whose option has another name.
_OPTIONS = {"bounds": "bound", "runtimes": "runtime", "settings": "set"}
_at_command_line = False


def option(keyword: str, value: Any = _NO_VALUE) -> str:
    """Return how the user of this process writes a keyword of `isogon`'s functions.

    In Python `minutes`, at the command line `--minutes`. With a value: `minutes=3` or
    `--minutes 3`, `teacher=False` or `--no-teacher`, `unfamiliar={"a": "b"}` or
    `--unfamiliar a=b`.
    """
    if not _at_command_line:
        if value is _NO_VALUE:
            return keyword
        shown = f"{value:g}" if isinstance(value, float) else repr(value)
        return f"{keyword}={shown}".replace("'", '"')
    name = f"--{_OPTIONS.get(keyword, keyword).replace('_', '-')}"
    if value is _NO_VALUE or value is True:
        return name
    if value is False:
        return f"--no-{name.removeprefix('--')}"
    if isinstance(value, Mapping):
        return " ".join(f"{name} {key}={one}" for key, one in value.items())
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{name} {shown}"


@contextmanager
def at_command_line() -> Iterator[None]:
    """Let messages name the options of the command line, not Python's keywords."""
    global _at_command_line
    _at_command_line, before = True, _at_command_line
    try:
        yield
    finally:
        _at_command_line = before

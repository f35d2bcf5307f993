"""The errors of Isogon.

Each message says what was expected, what came, and what to do. The command line
prints the message alone and ends with the class's `exit_code`.

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

from enum import StrEnum
from typing import ClassVar


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

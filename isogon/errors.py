"""What can go wrong, with messages that say what to do.

Each message says what was expected, what came, and what to do. The command line
prints the message alone and leaves with the class's `exit_code`.

    IsogonError                   2
    ├── UsageError                2  an argument, a recipe or a data folder
    │   └── ProcessError             a process of several, or one that it has lost
    ├── ImageError                2  bytes that are not an image we accept
    ├── BundleError               2  a directory that is no usable bundle
    │   ├── AppendOnlyError          rule 1: another stage's file would be rewritten
    │   ├── DamagedFileError         rule 2: a file is not what the manifest promises
    │   ├── ForbiddenFileError       rule 3: a kind of file that could execute
    │   ├── EngineMismatchError      rule 3: an engine built for another machine
    │   ├── UnvouchedArtifactError   rules 4 and 5: no parity or calibration for this hash
    │   └── SchemaVersionError       rule 6: a format this version does not read
    └── CheckFailedError          1  parity or the golden check (rule 7) found a difference
"""

from enum import StrEnum
from typing import ClassVar


class IsogonError(Exception):
    """Anything Isogon refuses to do, with a message meant for a person."""

    exit_code: ClassVar[int] = 2


class UsageError(IsogonError):
    """An argument, a recipe or a data folder that cannot be used."""


class ProcessError(UsageError):
    """One process of several failed, or lost contact with another."""


class ImageProblem(StrEnum):
    """Why bytes were refused as an image."""

    UNDECODABLE = "undecodable"
    UNSUPPORTED = "unsupported"
    TOO_LARGE = "too_large"


class ImageError(IsogonError):
    """Bytes that are not an image we accept; `problem` says in which way."""

    def __init__(self, problem: ImageProblem, message: str) -> None:
        super().__init__(message)
        self.problem = problem


class BundleError(IsogonError):
    """A directory that is no bundle, or one that cannot be used as it is."""


class AppendOnlyError(BundleError):
    """A stage tried to rewrite a file that belongs to another stage."""


class DamagedFileError(BundleError):
    """A file is missing, or its bytes are not those the manifest promises."""


class ForbiddenFileError(BundleError):
    """A file of a kind that could execute, or outside the bundle."""


class EngineMismatchError(BundleError):
    """An engine built for another GPU, another TensorRT, or for a GPU at all."""


class UnvouchedArtifactError(BundleError):
    """No parity report, or no calibration, vouches for this artifact's hash."""


class SchemaVersionError(BundleError):
    """The manifest's schema is one this version of Isogon does not read."""


class CheckFailedError(IsogonError):
    """A check ran and found a difference it may not tolerate."""

    exit_code: ClassVar[int] = 1

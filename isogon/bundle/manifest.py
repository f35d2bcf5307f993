"""The manifest: what a bundle holds, where it came from, and the hash of each file.

`manifest.json` is canonical JSON (sorted keys, two-space indent, UTF-8, one final
newline) and has a `checksum` over itself, so that one changed byte is found,
even in white space. `isogon/bundle/README.md` specifies the format.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from isogon.bundle.names import is_import_path
from isogon.errors import (
    BundleError,
    DamagedFileError,
    ForbiddenFileError,
    SchemaVersionError,
)
from isogon.images.preprocessing import Preprocessing

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
Stage = Literal["distill", "evaluate", "calibrate", "export"]
Upgrade = Callable[[dict[str, Any]], dict[str, Any]]

# Rule 6: a format change adds `upgrade_<n>_to_<n+1>` here, by name and with a test.
UPGRADES: Mapping[int, Upgrade] = {}

# Rule 3: data, text and graphs; nothing that runs by being opened.
SAFE_SUFFIXES = frozenset(
    {".safetensors", ".json", ".toml", ".onnx", ".data", ".engine", ".html", ".md"}
)

# Keys of the student's card that are left out if empty, as in older manifests.
_LEFT_OUT_EMPTY = ("arguments", "code")

# An HTML page in a bundle must start with this policy, which the browser enforces.
PAGE_START = (
    '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta http-equiv="Content-Security-Policy" content="'
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
)


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(_Record):
    """One file of a bundle: its SHA-256 (hex), its length and the stage that owns it."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)
    stage: Stage


class TeacherCard(_Record):
    """The model whose angles the student keeps."""

    architecture: str
    weights: str  # the timm tag, `package:NAME` or the file's name
    licence: str
    width: int
    parameters: int
    # Height and width in pixels, if the recipe sets it; absent if the teacher saw images
    # of the student's size.
    size: int | None = Field(default=None, exclude_if=lambda size: size is None)
    # Each of several teachers, whose features are concatenated; absent with one.
    teachers: tuple["TeacherCard", ...] = Field(
        default=(), exclude_if=lambda teachers: not teachers
    )


class StudentCard(_Record):
    """How to rebuild the network whose weights are `model.safetensors`."""

    architecture: str  # a timm name, or the import path of a user's own network
    licence: str
    width: int  # of the embedding
    embedding_layer: bool  # a kept Linear(features -> width) follows the backbone
    parameters: int
    # Arguments of timm's model, from a hub's or a folder's configuration.
    arguments: dict[str, JsonValue] = {}
    # SHA-256 (hex) of the source of a user's own network, by module.
    code: dict[str, str] = {}

    @property
    def imported(self) -> bool:
        """Whether it is a network of the user's own."""
        return is_import_path(self.architecture)


class Provenance(_Record):
    """Where the weights came from."""

    created: str  # ISO 8601, UTC
    images: str
    image_count: int
    classes: tuple[str, ...]  # empty without labels
    seed: int
    versions: dict[str, str]  # of Isogon and of the packages that affect the result


class Manifest(_Record):
    """The content of `manifest.json`, without its checksum."""

    schema_version: int = SCHEMA_VERSION
    name: str
    width: int  # of the embedding
    space: Literal["student", "teacher"] = "student"
    preprocessing: Preprocessing
    student: StudentCard
    teacher: TeacherCard
    provenance: Provenance
    files: dict[str, FileEntry] = {}


def manifest_to_bytes(manifest: Manifest) -> bytes:
    """Return the canonical file content, checksum included."""
    document = manifest.model_dump(mode="json")
    for key in _LEFT_OUT_EMPTY:  # as in older manifests, whose checksums must stay valid
        if not document["student"][key]:
            del document["student"][key]
    return _canonical({**document, "checksum": _checksum(document)})


def manifest_from_bytes(
    content: bytes, *, where: str, upgrades: Mapping[int, Upgrade] = UPGRADES
) -> Manifest:
    """Parse and check a manifest, and upgrade an older one.

    Args:
        content: the bytes of `manifest.json`.
        where: the bundle's path, for messages.
        upgrades: version n -> function from a document of version n to n + 1.

    Raises:
        SchemaVersionError: the format is newer than this version, or unknown.
        DamagedFileError: the content does not match its checksum.
        BundleError: the content is not a manifest.
    """
    try:
        document = json.loads(content.decode("utf-8"))
        version = document["schema_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedFileError(
            f"{where}: {MANIFEST} is damaged: expected a JSON object with a "
            f"`schema_version`, got {content[:40]!r} ({error}). "
            f"Restore it from a copy, or make the bundle again."
        ) from error
    _require_own_checksum(document, content, where)
    document = _upgraded(document, version, where, upgrades)
    try:
        manifest = Manifest.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise BundleError(
            f"{where}: {MANIFEST} does not follow the format: `{key}`: {first['msg']}. "
            f"`isogon/bundle/README.md` specifies it; make the bundle again with `isogon`."
        ) from error
    for path in manifest.files:
        require_safe_path(path)
    return manifest


def require_safe_path(path: str) -> None:
    """Raise `ForbiddenFileError` unless `path` may be part of a bundle (rule 3)."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or str(pure) != path or "\\" in path:
        raise ForbiddenFileError(
            f"A bundle holds relative paths below itself, got {path!r}; "
            f"write it as `folder/file.suffix`."
        )
    if pure.suffix not in SAFE_SUFFIXES or pure.name.startswith("."):
        raise ForbiddenFileError(
            f"A bundle holds only files that cannot execute "
            f"({', '.join(sorted(SAFE_SUFFIXES))}), got {path!r}; "
            f"convert it, for example pickled weights to safetensors."
        )


def require_inert(path: str, content: bytes) -> None:
    """Raise `ForbiddenFileError` if an HTML page could run or fetch something (rule 3)."""
    if content.lstrip().startswith(PAGE_START.encode()) and b"<script" not in content:
        return
    raise ForbiddenFileError(
        f"An HTML page in a bundle must not run code: expected {path} to start with\n"
        f"{PAGE_START}and to have no <script>; got something else. Make it again with "
        f"`isogon evaluate`."
    )


def _require_own_checksum(document: dict[str, Any], content: bytes, where: str) -> None:
    claimed = document.pop("checksum", None)
    actual = _checksum(document)
    if claimed != actual or content != _canonical({**document, "checksum": actual}):
        raise DamagedFileError(
            f"{where}: {MANIFEST} is damaged: its checksum is {str(claimed)[:12]}…, "
            f"its content gives {actual[:12]}…. Manifests are not edited by hand; "
            f"restore it from a copy, or make the bundle again."
        )


def _upgraded(
    document: dict[str, Any],
    version: object,
    where: str,
    upgrades: Mapping[int, Upgrade],
) -> dict[str, Any]:
    newest = max(upgrades, default=SCHEMA_VERSION - 1) + 1
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise SchemaVersionError(
            f"{where}: expected `schema_version` to be an integer from 1 to {newest}, "
            f"got {version!r}; no Isogon wrote this manifest. Make the bundle again."
        )
    if version > newest:
        raise SchemaVersionError(
            f"{where} has schema_version {version}; this Isogon reads up to {newest}. "
            f"Upgrade Isogon, or make the bundle again with this version."
        )
    for step in range(version, newest):
        document = upgrades[step](document)
    return document


def _checksum(document: dict[str, Any]) -> str:
    return hashlib.sha256(_canonical(document)).hexdigest()


def _canonical(document: dict[str, Any]) -> bytes:
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False)
    return (text + "\n").encode()

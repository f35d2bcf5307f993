"""`isogon publish`: copy a bundle into BentoML's model store."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from isogon.bundle import (
    MANIFEST,
    Artifact,
    Bundle,
    parity_reports,
    proven_runner,
    vouched_artifact,
)
from isogon.bundle.false_alarms import detection_sentence
from isogon.bundle.worth import worth_of
from isogon.errors import BundleError, UsageError, option
from isogon.progress import Progress
from serving.served_model import Evaluated

if TYPE_CHECKING:
    from bentoml import Tag

_MEGABYTE = 10**6
_SPARE = 10 * _MEGABYTE  # bytes for directories and for other writers


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """A bundle in BentoML's model store."""

    tag: str
    path: Path
    bytes: int
    already: bool  # it was in the store; nothing was copied


def publish(path: Path, progress: Progress, *, tag: str | None = None) -> Published:
    """Copy a bundle into BentoML's model store; publishing it again changes nothing.

    Args:
        path: the bundle's directory.
        progress: of the check and the copy.
        tag: `NAME[:VERSION]`; without a version, the first 16 digits of the manifest's
            checksum; without a name, the bundle's.

    Raises:
        BundleError: the bundle is damaged, or nothing vouches for its ONNX file.
        CheckFailedError: the golden images give other outputs than they should.
        UsageError: the tag is malformed or in use, or there is no room for the copy.
    """
    task = progress.add_task("Checking the bundle", total=1)
    bundle = Bundle.open(path)
    artifact = vouched_artifact(bundle)
    proven_runner(bundle, artifact)
    progress.update(task, advance=1)
    size = sum(entry.bytes for entry in bundle.manifest.files.values())
    checksum = _checksum(path)
    wanted = _tag(tag or bundle.manifest.name, checksum)
    target = _store() / wanted.path()
    with _alone():
        held = _held(target, checksum)
        if target.exists() and not held:
            _require_leftover(target, wanted, checksum)
            shutil.rmtree(target)
        if not held:
            require_room(_store(), size)
            with watched(progress, target, size), whole(target, size):
                _copy(bundle, wanted, _facts(bundle, artifact, checksum))
                Bundle.open(target)  # check the copy
    return Published(tag=str(wanted), path=target, bytes=size, already=held)


def _checksum(path: Path) -> str:
    """Return the manifest's checksum, which covers the hashes of all files."""
    checksum: str = json.loads((path / MANIFEST).read_bytes())["checksum"]
    return checksum


def _tag(wanted: str, checksum: str) -> "Tag":
    from bentoml import Tag

    name, _, version = wanted.lower().partition(":")
    if version == "latest":
        raise UsageError(
            f"BentoML reserves the version `latest` for the newest one, got {wanted!r}. "
            f"Give another version, or {option('tag', name)}."
        )
    try:
        return Tag(name, version or checksum[:16])
    except ValueError as error:
        raise UsageError(
            f"{error}, got {wanted!r}. Give {option('tag', 'NAME')}."
        ) from error


def _store() -> Path:
    """Return the folder of BentoML's models; BENTOML_HOME moves it."""
    from bentoml._internal.configuration.containers import BentoMLContainer

    return Path(BentoMLContainer.model_store_dir.get())


@contextmanager
def _alone() -> Iterator[None]:
    try:
        with FileLock(_store() / ".isogon.lock", timeout=5):
            yield
    except Timeout as error:
        raise UsageError(
            f"Another process is publishing to {_store()}. Try again when it is done."
        ) from error


def _held(target: Path, checksum: str) -> bool:
    """Return whether the store has the bundle with this checksum, undamaged."""
    if not (target / "model.yaml").is_file():
        return False
    try:
        Bundle.open(target)
    except BundleError:
        return False
    return _checksum(target) == checksum


def _require_leftover(target: Path, tag: "Tag", checksum: str) -> None:
    """Raise `UsageError` unless the target is an incomplete copy of this bundle."""
    if tag.version != checksum[:16]:
        raise UsageError(
            f"{tag} exists already, at {target}, and is another bundle. Choose another "
            f"{option('tag')}, or remove it with `bentoml models delete {tag}`."
        )


def require_room(folder: Path, size: int) -> None:
    """Raise `UsageError` unless `size` bytes fit on the disk of `folder`."""
    free = shutil.disk_usage(folder).free
    if free < size + _SPARE:
        raise UsageError(
            f"The bundle has {size / _MEGABYTE:,.1f} MB, but {folder} has only "
            f"{free / _MEGABYTE:,.1f} MB free. Make room (`bentoml models list`), or set "
            f"BENTOML_HOME to a folder on another disk."
        )


@contextmanager
def whole(target: Path, size: int) -> Iterator[None]:
    """Remove `target` if the block fails."""
    try:
        yield
    except BaseException as error:
        shutil.rmtree(target, ignore_errors=True)
        with suppress(OSError):
            target.parent.rmdir()  # empty, if this was the first version
        if isinstance(error, OSError):
            # shutil.Error lists (source, copy, reason) of every file.
            listed = isinstance(error, shutil.Error)
            reason = error.args[0][0][2] if listed else error
            raise UsageError(
                f"Copying {size / _MEGABYTE:,.1f} MB to {target} failed: {reason}. "
                f"Nothing was published."
            ) from error
        raise


@contextmanager
def watched(progress: Progress, folder: Path, size: int) -> Iterator[None]:
    """Show how many of `size` bytes are in `folder`, until the block ends."""
    task = progress.add_task("Copying, MB", total=size // _MEGABYTE)
    done = Event()

    def follow() -> None:
        while not done.wait(0.3):
            with suppress(OSError):  # a file vanished meanwhile
                arrived = sum(file.stat().st_size for file in folder.rglob("*"))
                progress.update(task, completed=arrived // _MEGABYTE)

    thread = Thread(target=follow)
    thread.start()
    try:
        yield
        progress.update(task, completed=size // _MEGABYTE)
    finally:
        done.set()
        thread.join()


def _copy(bundle: Bundle, tag: "Tag", facts: dict[str, Any]) -> None:
    import bentoml

    labels = {
        "made-by": "isogon",
        "width": str(bundle.manifest.width),
        "student": bundle.manifest.student.architecture,
        "teacher": bundle.manifest.teacher.architecture,
    }
    with bentoml.models.create(tag, labels=labels, metadata=facts) as model:
        for name in (MANIFEST, *bundle.manifest.files):
            link = Path(model.path_of(name))
            link.parent.mkdir(parents=True, exist_ok=True)
            # The end of the block copies the files that links point to: one copy, not two.
            link.symlink_to(bundle.path.resolve() / name)


def _facts(bundle: Bundle, artifact: Artifact, checksum: str) -> dict[str, Any]:
    """Return the metadata for `bentoml models get`: basic types only."""
    manifest = bundle.manifest
    return {
        "name": manifest.name,
        "width": manifest.width,
        "space": manifest.space,
        "alpha": artifact.calibration.alpha,
        "student": manifest.student.model_dump(mode="json"),
        "teacher": manifest.teacher.model_dump(mode="json"),
        **_worth(bundle),
        "created": manifest.provenance.created,
        "checksum": checksum,
        "fingerprints": {
            report.artifact: report.sha256 for report in parity_reports(bundle) if report
        },
    }


def _worth(bundle: Bundle) -> dict[str, str]:
    """Return the gain of distillation and the quality of detection, as sentences."""
    evaluated = Evaluated.of(bundle)
    if evaluated is None:
        return {"distillation": "not measured", "detection": "not measured"}
    replaced = "" if evaluated.detector == "same" else " (the detector fitted in training)"
    detection = detection_sentence(evaluated.evaluation) or "not measured"
    return {
        "distillation": worth_of(evaluated.evaluation).sentence,
        "detection": f"{detection}{replaced}",
    }

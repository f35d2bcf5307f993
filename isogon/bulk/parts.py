"""The finished parts of a run, in a folder beside its output until that is whole."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from isogon.bulk.job import Job
from isogon.bulk.run_record import RunRecord
from isogon.bundle.stage import LOCK, exclusive, fsync
from isogon.errors import UsageError

_RUN = "run.json"
_PENDING = ".pending"


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """One file per finished part; a file is complete or absent."""

    folder: Path
    job: Job

    def done(self) -> list[int]:
        """Return the numbers of the finished parts."""
        found = (
            re.fullmatch(r"part-(\d+)\.parquet", p.name) for p in self.folder.iterdir()
        )
        return sorted(int(match[1]) for match in found if match)

    def path(self, number: int) -> Path:
        """Return where a part is kept."""
        return self.folder / f"part-{number:05}.parquet"

    def pending(self, name: str) -> Path:
        """Return where to write a file that is to appear whole."""
        return self.folder / f".{name}{_PENDING}"

    def write(self, number: int, content: bytes) -> None:
        """Keep a finished part."""
        pending = self.pending(self.path(number).name)
        pending.write_bytes(content)
        publish(pending, self.path(number))

    def clear(self) -> None:
        """Remove the run. Its record goes first: parts without a record are ignored.

        Files of other names are somebody else's, and stay.
        """
        (self.folder / _RUN).unlink(missing_ok=True)
        for path in (*map(self.path, self.done()), *self.folder.glob(f".*{_PENDING}")):
            path.unlink(missing_ok=True)


def publish(pending: Path, final: Path) -> None:
    """Give a written file its name, once its bytes are on the disk."""
    fsync(pending)
    pending.replace(final)
    fsync(final.parent)


@contextmanager
def opened(
    output: Path, job: Job, record: RunRecord, *, overwrite: bool
) -> Iterator[Parts]:
    """Begin a run, or continue the one that was begun for this output.

    The folder is removed at the end, unless the run ends with an exception.

    Args:
        output: the file to be made.
        job: what to do; a continued run keeps the size of its parts.
        record: of that job.
        overwrite: replace the output, and forget a run begun with something else.

    Raises:
        UsageError: there is an output already, or a run begun with something else.
        BundleError: another process is making this output.
    """
    folder = output.with_name(f"{output.name}.parts")
    _require_place(output)
    if output.exists() and not (folder / _RUN).exists() and not overwrite:
        raise UsageError(
            f"{output} exists already. Choose another --output, or replace it with "
            f"--overwrite."
        )
    folder.mkdir(exist_ok=True)
    with exclusive(folder):
        parts = Parts(folder=folder, job=job)
        known = _record_in(folder)
        differences = known.differences(record) if known else ["its record is not ours"]
        if (folder / _RUN).exists() and not differences and known:
            parts = replace(parts, job=replace(job, part=known.part))
        else:
            if (folder / _RUN).exists() and not overwrite:
                raise UsageError(
                    f"{folder} holds a run that was begun with something else: "
                    f"{'; '.join(differences)}. Continue it as it was begun, or forget it "
                    f"with --overwrite."
                )
            parts.clear()
            pending = parts.pending(_RUN)
            pending.write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
            publish(pending, folder / _RUN)
        yield parts
        parts.clear()
    with suppress(OSError):  # another run of the same name has begun
        (folder / LOCK).unlink(missing_ok=True)
        folder.rmdir()


def _record_in(folder: Path) -> RunRecord | None:
    path = folder / _RUN
    return RunRecord.load(path) if path.exists() else None


def _require_place(output: Path) -> None:
    if output.is_dir():
        raise UsageError(f"{output} is a directory; expected --output as a file's name.")
    if not output.parent.is_dir():
        found = "a file" if output.parent.exists() else "nothing"
        raise UsageError(
            f"Expected a directory at {output.parent}, found {found}. Make it, or choose "
            f"another --output."
        )

"""The log of a run by step: `metrics.jsonl`, TensorBoard's files, and the loggers."""

import json
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from distill.training.loggers import RunLoggers

METRICS = "metrics.jsonl"


class Journal:
    """Writes figures by step into the run's folder; only in the first process."""

    def __init__(
        self, folder: Path, *, start: int, loggers: RunLoggers | None = None
    ) -> None:
        """Open the journal and remove what was written for step `start` or later.

        A killed run may have written steps after its checkpoint. They are run and written
        again; in the `loggers` they stay, so that these have them twice.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / METRICS
        kept = _before(path, start)
        pending = path.with_suffix(".pending")
        pending.write_bytes(b"".join(kept))
        pending.replace(path)
        self._file = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=start)
        self._loggers = loggers
        if loggers is not None:
            loggers.open(start=start)

    def write(self, step: int, epoch: int, figures: dict[str, float]) -> None:
        """Append a line, and a point to each curve of TensorBoard and the loggers."""
        line = {"step": step, "epoch": epoch} | figures
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        for name, value in figures.items():
            self._board.add_scalar(name, value, step)
        if self._loggers is not None:
            self._loggers.write(step, {"epoch": float(epoch)} | figures)

    def close(self) -> None:
        """Write buffered figures and close the files."""
        self._file.close()
        self._board.close()


def _before(path: Path, start: int) -> list[bytes]:
    """Return the lines of steps before `start`, up to the first damaged line.

    After a power failure a file may end in NULs, or within a line.
    """
    if not path.exists():
        return []
    kept = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            step = json.loads(line)["step"]
        except (ValueError, TypeError, KeyError):
            break
        if not line.endswith(b"\n") or step >= start:
            break
        kept.append(line)
    return kept

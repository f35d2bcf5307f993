"""Checkpoints, from which an interrupted run continues, and a lock: one run per folder."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill.recipe import Recipe, TrainSection
from distill.targets.store_key import VIEW_SETTINGS
from distill.weights import why_unloadable
from isogon.bundle.stage_writer import exclusive
from isogon.errors import UsageError, option
from isogon.networks import source_of

NAME = "checkpoint.pt"
# Keys that may change before a run is continued, with --accept-changes.
_ADJUSTABLE = {
    "epochs",
    "steps",
    "learning_rate",
    "final_learning_rate",
    "milestones",
    "warmup_epochs",
    "warmup_share",
    "layer_rate",
    "layer_decay",
    "weight_decay",
    "clip_norm",
    "precision",
}
# Keys that do not affect the weights.
_FREE = {"workers", "checkpoint_minutes", "loggers"}


class Checkpoint:
    """One file per run, which belongs to its recipe and images."""

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        trained: Iterable[str],
        *,
        accept_changes: bool = False,
    ) -> None:
        """Describe the run.

        Args:
            folder: of the checkpoint.
            recipe: of the run; only keys that affect the weights count.
            trained: the names of the images that steps learn from.
            accept_changes: whether to continue a run that had another learning rate,
                length, clipping or precision.
        """
        names = sha256("\0".join(trained).encode("utf-8", "surrogateescape"))
        # What affects the weights, by dotted key.
        self.shaping = _shaping(recipe) | {"names of the images": names.hexdigest()}
        self._accept_changes = accept_changes
        self._folder = folder
        self.path = folder / NAME

    def save(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint; if the run is killed meanwhile, the old one stays.

        Raises:
            UsageError: it cannot be written, most often because the disk is full.
        """
        pending = self.path.with_suffix(".pending")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with pending.open("wb") as file:
                torch.save({"shaping": self.shaping, **state}, file)
                file.flush()
                os.fsync(file.fileno())
            pending.replace(self.path)
        except (OSError, RuntimeError) as error:
            with suppress(OSError):
                pending.unlink(missing_ok=True)
            cause = _of_the_file(error)
            kept = "; the last checkpoint is kept" if self.path.exists() else ""
            raise UsageError(
                f"{self.path} cannot be written: {cause}. Make room, then run this "
                f"again{kept}."
            ) from error

    def require_continuable(self) -> None:
        """Raise what `load` would raise, before other long work starts.

        Raises:
            UsageError: also if the run is already longer than the recipe now says.
        """
        state = self.load()
        if state is None:
            return
        course, epochs = state["course"], self.shaping["train.epochs"]
        steps = self.shaping["train.steps"]
        by_steps = steps is not None and state["done"] > steps
        ends = f"{steps} steps" if by_steps else f"{epochs} epochs"
        if by_steps or (course["epoch"], course["step"]) > (epochs, 0):
            raise UsageError(
                f"The run in {self._folder} has done {course['epoch']} epochs and "
                f"{course['step']} steps, but the recipe now ends after {ends}. Raise "
                f"`{ends.split()[1]}` in [train], or remove {self._folder} to start again."
            )

    def load(self) -> dict[str, Any] | None:
        """Return the saved state, or None if there is no checkpoint.

        Raises:
            UsageError: the checkpoint belongs to another recipe or other images.
        """
        if not self.path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(
                self.path, map_location="cpu", weights_only=True, mmap=True
            )
            theirs = state.pop("shaping")
        except Exception as error:  # torch's and pickle's parsers raise many types
            raise UsageError(
                f"{self.path} is damaged: {why_unloadable(error)}. Remove {self._folder} "
                f"to start again."
            ) from error
        changed = sorted(
            key
            for key in self.shaping.keys() | theirs.keys()
            if self.shaping.get(key) != theirs.get(key)
        )
        ours, before = _objectives(self.shaping), _objectives(theirs)
        if ours != before and set(ours) == set(before):
            changed.append("the order of the objectives")
        adjustable = {f"train.{name}" for name in _ADJUSTABLE}
        if not changed or (self._accept_changes and adjustable.issuperset(changed)):
            return state
        remedy = (
            f"Remove {self._folder} to start again, or choose another {option('output')}"
        )
        if adjustable.issuperset(changed):
            accepted = option("accept_changes", True)
            remedy += f", or pass {accepted} to continue with the new values"
        raise UsageError(
            f"{self.path} is of a run with another recipe or other images: it differs in "
            f"{', '.join(changed)}. {remedy}."
        )


def _of_the_file(error: BaseException) -> str:
    """Return what the file system said; torch's own errors come after it and hide it."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, OSError):
        found = found.__context__
    return "the disk may be full" if found is None else str(found)


def remove_checkpoint(folder: Path) -> None:
    """Remove a run's checkpoint once its bundle exists; the journal stays."""
    path = folder / NAME
    path.unlink(missing_ok=True)
    path.with_suffix(".pending").unlink(missing_ok=True)


@contextmanager
def sole_run(folder: Path, section: TrainSection) -> Iterator[None]:
    """Let one run at a time use `folder`; the lock ends with its first process.

    Raises:
        UsageError: another run uses it.
    """
    if not is_first_process(section):
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    busy = UsageError(
        f"Another run is at work in {folder}. Wait for it or stop it, then run this "
        f"again; or choose another {option('output')}."
    )
    with exclusive(folder, busy):
        yield


def is_first_process(section: TrainSection) -> bool:
    """Return whether this process is the run's first; works before `launched`."""
    if section.devices * section.nodes == 1:
        return True
    # `torchrun` sets the first variable, `processes.launched` the second.
    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"


def generator_state(device: torch.device) -> Tensor:
    """Return the state of the random generators of dropout, as bytes."""
    states = [torch.get_rng_state()]
    if torch.cuda.is_available():
        states.append(torch.cuda.get_rng_state())
    return torch.cat(states).to(device)


def restore_generators(state: Tensor) -> None:
    """Restore the random generators to a `generator_state`."""
    # Slices are copied: torch 2.15 reads a state from the start of its storage.
    own = len(torch.get_rng_state())
    torch.set_rng_state(state[:own].clone())
    if torch.cuda.is_available() and len(state) > own:
        torch.cuda.set_rng_state(state[own:].clone())


def _shaping(recipe: Recipe) -> dict[str, Any]:
    """Return what affects the weights, by dotted key."""
    document = recipe.model_dump(
        mode="json",
        include={
            "student": True,
            "data": VIEW_SETTINGS
            | {"images", "repeats", "pseudo_classes", "validation_limit"},
            "train": set(TrainSection.model_fields) - _FREE,
        },
    )
    flat: dict[str, Any] = {
        f"{section}.{key}": value
        for section, fields in document.items()
        for key, value in fields.items()
    }
    objectives = recipe.model_dump(mode="json", include={"objective"})["objective"]
    student = recipe.student
    files: dict[str, str | Path | None] = {
        "code of student.name": (
            source_of(student.name, "student") if student.imported else None
        ),
        "content of student.checkpoint": student.checkpoint,
    }
    for number, teacher in enumerate(recipe.teachers):
        section = "teacher" if len(recipe.teachers) == 1 else f"teacher {number}"
        fields = teacher.model_dump(mode="json", exclude={"cache", "license"})
        flat |= {f"{section}.{key}": value for key, value in fields.items()}
        code = source_of(teacher.name) if teacher.name and teacher.imported else None
        files |= {
            f"code of {section}.name": code,
            f"content of {section}.path": teacher.path,
            f"content of {section}.checkpoint": teacher.checkpoint,
        }
    for key, name in files.items():
        if name is not None and Path(name).is_file():
            with Path(name).open("rb") as file:
                flat[key] = file_digest(file, "sha256").hexdigest()
    return flat | {f"objective.{part['name']}": part for part in objectives}


def _objectives(shaping: dict[str, Any]) -> list[str]:
    """Return the objectives in their order, which is that of the optimiser's groups."""
    return [key for key in shaping if key.startswith("objective.")]

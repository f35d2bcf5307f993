"""Checkpoints: what an interrupted run continues from; and one run at a time."""

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
from isogon.bundle.stage import exclusive
from isogon.errors import UsageError
from isogon.networks import source_of


def generator_state(device: torch.device) -> Tensor:
    """Return the state of the generators that dropout draws from, as bytes."""
    states = [torch.get_rng_state()]
    if torch.cuda.is_available():
        states.append(torch.cuda.get_rng_state())
    return torch.cat(states).to(device)


def restore_generators(state: Tensor) -> None:
    """Go on drawing where `generator_state` was taken."""
    # A slice is copied: torch 2.15 reads a state from the start of its storage.
    own = len(torch.get_rng_state())
    torch.set_rng_state(state[:own].clone())
    if torch.cuda.is_available() and len(state) > own:
        torch.cuda.set_rng_state(state[own:].clone())


NAME = "checkpoint.pt"

# What may change between an interruption and its continuation, if that is asked for.
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
# What does not shape the weights.
_FREE = {"workers", "checkpoint_minutes"}


class Checkpoint:
    """One file per run, tied to the recipe and the images it belongs to."""

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        trained: Iterable[str],
        *,
        accept_changes: bool = False,
    ) -> None:
        """Name the run.

        Args:
            folder: where the checkpoint is kept.
            recipe: what is run; only what shapes the weights counts.
            trained: the names of the images that are learnt from.
            accept_changes: whether to continue a run whose learning rate, length,
                clipping or precision was another.
        """
        names = sha256("\0".join(trained).encode("utf-8", "surrogateescape"))
        # What shapes the weights, by dotted key.
        self.shaping = _shaping(recipe) | {"names of the images": names.hexdigest()}
        self._accept_changes = accept_changes
        self._folder = folder
        self.path = folder / NAME

    def save(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint; a run killed meanwhile leaves the previous one.

        Raises:
            UsageError: it cannot be written, most often for want of room.
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
            cause = error.__context__ or error  # torch's own error hides the file's
            kept = "; the last checkpoint is kept" if self.path.exists() else ""
            raise UsageError(
                f"{self.path} cannot be written: {cause}. Make room, then run this "
                f"again{kept}."
            ) from error

    def require_continuable(self) -> None:
        """Raise what `load` would raise; before hours are spent on other things.

        Raises:
            UsageError: also where the run has done more than the recipe now asks for.
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
                f"{course['step']} steps, and the recipe now ends after {ends}. Raise "
                f"`{ends.split()[1]}` in [train], or remove {self._folder} to start anew."
            )

    def load(self) -> dict[str, Any] | None:
        """Return the saved state, or None where no run was interrupted.

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
        except Exception as error:  # damaged bytes reach torch's and pickle's parsers
            raise UsageError(
                f"{self.path} is damaged: {why_unloadable(error)}. Remove {self._folder} "
                f"to start anew."
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
        remedy = f"Remove {self._folder} to start anew, or choose another --output"
        if adjustable.issuperset(changed):
            remedy += ", or pass --accept-changes to continue with the new values"
        raise UsageError(
            f"{self.path} is of a run with another recipe or other images: it differs in "
            f"{', '.join(changed)}. {remedy}."
        )


def remove_checkpoint(folder: Path) -> None:
    """Remove a run's checkpoint once its bundle exists; the journal stays."""
    path = folder / NAME
    path.unlink(missing_ok=True)
    path.with_suffix(".pending").unlink(missing_ok=True)


def _shaping(recipe: Recipe) -> dict[str, Any]:
    """Return what shapes the weights, by dotted key."""
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
    """Return the objectives in their order, by which the optimiser knows their heads."""
    return [key for key in shaping if key.startswith("objective.")]


@contextmanager
def sole_run(folder: Path, section: TrainSection) -> Iterator[None]:
    """Let one run at a time work in `folder`; the lock ends with its first process.

    Raises:
        UsageError: another run works there.
    """
    if not is_first_process(section):
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    busy = UsageError(
        f"Another run is at work in {folder}. Wait for it or stop it, then run this "
        f"again; or choose another --output."
    )
    with exclusive(folder, busy):
        yield


def is_first_process(section: TrainSection) -> bool:
    """Return whether this process is the run's first, also before it is `launched`."""
    if section.devices * section.nodes == 1:
        return True
    # `torchrun` sets the first; Fabric, which starts processes on one machine, the second.
    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"

"""Checkpoints: what an interrupted run continues from, replaced atomically."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from bundle import UsageError
from distill.recipe import Recipe, TrainSection

NAME = "checkpoint.pt"


class Checkpoint:
    """One file per run, tied to the recipe and the images it belongs to."""

    def __init__(self, folder: Path, recipe: Recipe, trained: Iterable[str]) -> None:
        """Name the run.

        Args:
            folder: where the checkpoint is kept.
            recipe: what is run; only what shapes the weights counts.
            trained: the names of the images that are learnt from.
        """
        shaping = recipe.model_dump(
            mode="json",
            include={
                "teacher": True,
                "student": True,
                "objective": True,
                "data": {"images", "size", "scale", "flip", "augment"},
                "train": set(TrainSection.model_fields) - {"workers"},
            },
        )
        content = json.dumps([shaping, list(trained)], sort_keys=True)
        self._key = hashlib.sha256(content.encode()).hexdigest()
        self._folder = folder
        self.path = folder / NAME

    def save(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint; a run killed meanwhile leaves the previous one."""
        self._folder.mkdir(parents=True, exist_ok=True)
        pending = self.path.with_suffix(".pending")
        with pending.open("wb") as file:
            torch.save({"key": self._key, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        pending.replace(self.path)

    def load(self) -> dict[str, Any] | None:
        """Return the saved state, or None where no run was interrupted.

        Raises:
            UsageError: the checkpoint belongs to another recipe or other images.
        """
        if not self.path.exists():
            return None
        state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        if state.pop("key") != self._key:
            raise UsageError(
                f"{self.path} is of a run with another recipe or other images. Remove "
                f"{self._folder} to start anew, or choose another --output."
            )
        return state

    def remove(self) -> None:
        """Remove the work folder, and all that is in it, once the run's bundle exists."""
        shutil.rmtree(self._folder, ignore_errors=True)

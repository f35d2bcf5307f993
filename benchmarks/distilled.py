"""Short distillations: students of the families with weights that were trained here.

Most families have no trained weights in a package. So `distill` trains each student for
some hundred steps towards one teacher, whose features are computed once for all families. A
bundle that is there is not made again; a run that was interrupted continues.

Without a package a student starts from `lively` weights, as if they were pretrained. From
timm's random ones 200 steps teach little: `mobilenetv4_conv_small` had an overlap@10 of
0.019 with the teacher after them, where chance gives 0.010.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from lively import lively
from trials import TEACHER

from distill import Recipe, recipe_from_document
from distill.distillation import distill
from distill.embedding import RoleEmbeddings
from distill.evaluation.model_figures import fidelity
from distill.images.data import Data, prepare_data
from distill.targets.from_recipe import teacher_from_recipe
from isogon.bundle import Bundle
from isogon.images import Preprocessing
from isogon.images.collection import Indices
from isogon.networks import Student, preprocessing_of, timm_model
from isogon.ood.knn import directions
from isogon.progress import Progress, Silent
from isogon.runtimes import OnnxRunner

STEPS = 300
_BATCH = 32  # images per step
_TEACHER_PIXELS = 128
_SETTLED_ON = 48  # images for lively batch statistics
_TOGETHER = 16  # images that a file is run on at a time


@dataclass(frozen=True, kw_only=True)
class Distillations:
    """One recipe for all students, but for the network and its size."""

    images: str  # as in [data]: to train on, for the gate, and to measure overlap@10 on
    unfamiliar: str | None  # for the gate and int8's ranges
    steps: int
    width: int
    folder: Path

    def recipe(self, name: str, pixels: int, checkpoint: str) -> Recipe:
        """Return the recipe of a student that starts from these weights."""
        teacher = {
            "name": TEACHER[0],
            "checkpoint": TEACHER[1],
            "size": _TEACHER_PIXELS,
            "features": "embedding",
            "views": 2,
            "cache": str(self.folder / "teacher-features"),
        }
        document: dict[str, Any] = {
            "name": name,
            "teacher": teacher,
            "student": {"name": name, "width": self.width, "checkpoint": checkpoint},
            "data": {
                "images": self.images,
                "size": pixels,
                "scale": (0.5, 1.0),
                "plain": 0.5,
                "synthetic": 0.0,
                "test_share": 0.08,
                "calibration_share": 0.05,
                "calibration_limit": 64,  # the gate's, besides 64 unfamiliar ones
                "bank_limit": 500,
                "validation_limit": 128,
                "thumbnails": 0,
            },
            "train": {
                "steps": self.steps,
                "batch_size": _BATCH,
                "learning_rate": 1e-3,
                "warmup_share": 0.1,
                "validations": 2,
                "workers": 0,
                "checkpoint_minutes": 1,
            },
        }
        if self.unfamiliar is not None:
            document["unfamiliar"] = [{"name": "unfamiliar", "images": self.unfamiliar}]
        return recipe_from_document(document, where="the benchmark")

    def bundle(
        self, name: str, pixels: int, checkpoint: str | None, progress: Progress
    ) -> Bundle:
        """Return a student's bundle, distilled unless it is there."""
        kind = "lively" if checkpoint is None else "trained"
        path = self.folder / f"{name}-{pixels}-from-{kind}.isogon"
        if path.exists():
            return Bundle.open(path)
        start = checkpoint or str(self._lively(name, pixels))
        return distill(self.recipe(name, pixels, start), path, progress)

    def _lively(self, name: str, pixels: int) -> Path:
        """Return a file of a student's `lively` weights."""
        path = self.folder / f"{name}-{pixels}-lively.safetensors"
        preprocessing = preprocessing_of(name, pixels, 1.0)
        torch.manual_seed(0)
        model, whole = (timm_model(name, size=(pixels, pixels)) for _ in range(2))
        student = Student.new(model, preprocessing, width=self.width)
        chosen = self._data.bank[:_SETTLED_ON]
        lively(student, self._data.familiar.pixels(chosen, preprocessing, Silent()), 0)
        # A student's model lacks the layers before the classifier, a checkpoint does not.
        whole.load_state_dict(model.state_dict(), strict=False)
        safetensors.torch.save_model(whole, str(path))
        return path

    def overlap(self, file: Path, preprocessing: Preprocessing) -> float:
        """Return the overlap@10 of an ONNX file with the teacher, on test images."""
        runner = OnnxRunner(file)

        def embedded(indices: Indices) -> np.ndarray:
            pixels = self._data.familiar.pixels(indices, preprocessing, Silent())
            return runner.run_all(pixels, _TOGETHER).embeddings

        ours = RoleEmbeddings(
            bank=embedded(self._data.bank),
            test=embedded(self._data.split.test),
            unfamiliar={},
        )
        return fidelity(self._teachers, ours, same_space=False).neighbour_overlap

    @cached_property
    def _any_recipe(self) -> Recipe:
        """The recipe of a student; the images and the teacher are those of all."""
        return self.recipe(TEACHER[0], _TEACHER_PIXELS, TEACHER[1])

    @cached_property
    def _data(self) -> Data:
        return prepare_data(self._any_recipe, Silent(), self.folder)

    @cached_property
    def _teachers(self) -> RoleEmbeddings:
        """The teacher's embeddings; kept on disk by the teacher itself."""
        teacher = teacher_from_recipe(self._any_recipe, self._data.familiar)

        def embedded(indices: Indices) -> np.ndarray:
            pooled = teacher.pooled(indices, torch.device("cpu"), Silent())
            return directions(np.asarray(pooled, np.float32))

        return RoleEmbeddings(
            bank=embedded(self._data.bank),
            test=embedded(self._data.split.test),
            unfamiliar={},
        )

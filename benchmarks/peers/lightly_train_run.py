"""LightlyTrain's distillation of a timm student from a timm teacher, as its users run it.

    python lightly_train_run.py TASK.json

It runs in its own environment, which has LightlyTrain (AGPL-3.0) and timm but not this
project; `lightly_peer.py` makes the environment and the task. Student and teacher use the
wrapper for custom models from its documentation. Everything has its default except the
size, the normalisation, the batch, the length and the learning rate. The task:

    out: a folder for the output
    images: the training images
    teacher, student: {"name": a timm name, "weights": a file with a state dict}
    teacher_size, student_size: pixels; images come at the larger, each network resizes
    mean, std: of the pixels
    batch, steps, epochs: the length is the lesser of the last two
    learning_rate: of AdamW, or null for its default
    workers, seed

`student.pt` in `out` is the student's state dict, and `figures.json` has the seconds per
step and in all, and the peak of memory in MiB. There is no embedding layer: with its
`embed_dim` 0.18 fails to distil (mismatched shapes).
"""

import json
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import lightly_train
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Wrapped(nn.Module):
    """A timm network as LightlyTrain's documentation asks for a custom model."""

    def __init__(self, name: str, weights: str, size: int) -> None:
        super().__init__()
        self._model = timm.create_model(name, num_classes=0)
        self._model.load_state_dict(torch.load(weights, weights_only=True))
        self._size = size
        self.seen: list[float] = []  # times at which training batches came

    def get_model(self) -> nn.Module:
        """Return the network, which is exported."""
        return self._model

    def forward_features(self, x: Tensor) -> dict[str, Any]:
        """Return the cells of a batch, at the network's own resolution."""
        if self.training:
            self.seen.append(time.perf_counter())
        if x.shape[-1] != self._size:
            x = F.interpolate(x, size=self._size, mode="bicubic", antialias=True)
        return {"features": self._model.forward_features(x)}

    def forward_pool(self, x: dict[str, Any]) -> dict[str, Any]:
        """Return the mean of the cells."""
        return {"pooled_features": x["features"].mean(dim=(2, 3), keepdim=True)}

    def feature_dim(self) -> int:
        """Return the width of a cell."""
        width: int = self._model.num_features
        return width

    def architecture_info(self) -> dict[str, str]:
        """Return the kind of network."""
        return {"model_type": "convolutional", "norm_type": "batchnorm"}


def main(task: dict[str, Any]) -> None:
    """Distil, export the student and write the figures."""
    started = time.perf_counter()
    out = Path(task["out"])
    teacher = Wrapped(**task["teacher"], size=task["teacher_size"]).eval()
    student = Wrapped(**task["student"], size=task["student_size"])
    size = max(task["teacher_size"], task["student_size"])
    rate = task["learning_rate"]
    lightly_train.pretrain(
        out=out / "run",
        data=task["images"],
        model=student,
        method="distillation",
        method_args={"teacher": teacher, "reference_batch_size": task["batch"]},
        epochs=task["epochs"],
        batch_size=task["batch"],
        num_workers=task["workers"],
        devices=1,
        precision="32-true",
        seed=task["seed"],
        optim_args=None if rate is None else {"lr": rate},
        transform_args={
            "image_size": (size, size),
            "normalize": {"mean": task["mean"], "std": task["std"]},
        },
        trainer_args={"max_steps": task["steps"]},
        overwrite=True,
    )
    ended = time.perf_counter()
    torch.save(student.get_model().state_dict(), out / "student.pt")
    steps = [late - early for early, late in zip(student.seen, student.seen[1:])]  # noqa: B905
    figures = {
        "version": lightly_train.__version__,
        "steps": len(student.seen),
        "seconds_per_step": statistics.median(steps) if steps else None,
        "seconds": ended - started,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    (out / "figures.json").write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))

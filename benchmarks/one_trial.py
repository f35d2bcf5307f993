"""Run one trial of `trials.py` in this process: train, evaluate, save the figures."""

import contextlib
import json
import shutil
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import psutil
import torch
from filelock import FileLock
from lightly_peer import taught_by_lightly_train
from rich.progress import Progress
from sklearn.metrics import roc_auc_score
from trials import (
    STUDENT,
    TEACHER,
    Figures,
    Ground,
    Outcome,
    Trial,
    parsed,
    parser_of,
)

from distill.distillation import learn
from distill.embedding import Embed, RoleEmbeddings, embed_roles
from distill.evaluation.accuracy import knn_right
from distill.evaluation.model_figures import fidelity
from distill.evaluation.undistilled import undistilled
from distill.images.data import Data, prepare_data
from distill.training.journal import METRICS
from distill.weights import pretrained
from isogon.errors import UsageError
from isogon.networks import Backbone, preprocessing_of
from isogon.ood import DetectorSpec

_PARTS = 8  # parts of the time, each with its peak of memory
_EVERY = 0.2  # seconds between samples of memory


class Memory:
    """The resident set of this process, sampled while something runs."""

    def __init__(self) -> None:
        self._seen: list[float] = []

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Sample it in another thread."""
        process, stop = psutil.Process(), threading.Event()

        def look() -> None:
            while not stop.wait(_EVERY):
                self._seen.append(process.memory_info().rss / 2**20)

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    @property
    def peaks(self) -> tuple[float, ...]:
        """The peak of each equal part of the time, in MiB."""
        parts = np.array_split(self._seen, _PARTS)
        return tuple(float(part.max()) for part in parts if len(part))


def device() -> torch.device:
    """Return the device that networks run on."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def network(name: tuple[str, str], size: int, weights: Path | None = None) -> Embed:
    """Return the pooled vectors of a network, pretrained or with these weights."""
    model = pretrained(*name, size=(size, size)).model
    if weights is not None:
        model.load_state_dict(torch.load(weights, weights_only=True))
    backbone = Backbone(model, preprocessing_of(name[0], size, 1.0)).eval().to(device())
    return lambda pixels: backbone(pixels).pooled


def embedded(
    embed: Embed, name: str, size: int, data: Data, ground: Ground, progress: Progress
) -> RoleEmbeddings:
    """Embed the images of every role at a size."""
    crops = preprocessing_of(name, size, 1.0)
    where = {"device": device(), "workers": ground.workers}
    (found,) = embed_roles([embed], data, crops, progress, **where)
    return found


def _digest_of(data: Data) -> str:
    """Return a digest of the images of every role."""
    digest = sha256()
    roles = (
        [data.familiar.names[index] for index in data.bank],
        [data.held_out.names[index] for index in data.split.calibration],
        [data.held_out.names[index] for index in data.split.test],
        *([one.images.names[i] for i in one.flaggable] for one in data.unfamiliar.values()),
    )
    for names in roles:
        digest.update("\n".join([*names, ""]).encode())
    return digest.hexdigest()[:10]


def teachers(
    trial: Trial, data: Data, ground: Ground, progress: Progress
) -> RoleEmbeddings:
    """Return the teacher's embeddings, computed once for all trials of a set."""
    name = trial.place.partition("-")[0]
    path = ground.runs / f"teacher-{name}-{trial.phase}-{ground.teacher_size}.pt"
    if ground.quick:
        path = path.with_stem(f"{path.stem}-quick")
    path = path.with_stem(f"{path.stem}-{_digest_of(data)}")
    with FileLock(f"{path}.lock"):
        if not path.exists():
            size = ground.teacher_size
            found = embedded(
                network(TEACHER, size), TEACHER[0], size, data, ground, progress
            )
            torch.save(found, path.with_suffix(".pending"))
            path.with_suffix(".pending").replace(path)
    kept: RoleEmbeddings = torch.load(path, weights_only=False)  # our own file
    return kept


def judged(data: Data, theirs: RoleEmbeddings, ours: RoleEmbeddings) -> Figures:
    """Return the figures of embeddings compared with the teacher's."""
    close = fidelity(theirs, ours, same_space=False)
    labels = data.familiar.labels(data.bank)
    asked = data.held_out.labels(data.split.test)
    assert labels is not None and asked is not None
    aurocs: dict[str, list[float]] = {"near": [], "far": []}
    with contextlib.suppress(UsageError):  # the detector cannot be fitted on this bank
        detector = DetectorSpec().fit(ours.bank, labels)
        familiar = detector.score(ours.test)
        for name, vectors in ours.unfamiliar.items():
            scores = np.concatenate([familiar, detector.score(vectors)])
            truth = np.arange(len(scores)) >= len(familiar)
            aurocs[data.unfamiliar[name].kind].append(float(roc_auc_score(truth, scores)))
    return Figures(
        distortion=close.angle_distortion,
        overlap=close.neighbour_overlap,
        knn=float(knn_right(ours.bank, labels, ours.test, asked).mean()),
        near=float(np.mean(aurocs["near"])) if aurocs["near"] else None,
        far=float(np.mean(aurocs["far"])) if aurocs["far"] else None,
    )


def outcome_of(trial: Trial, ground: Ground, work: Path, progress: Progress) -> Outcome:
    """Train and judge the trial's student."""
    recipe = ground.recipe(trial)
    cost: dict[str, object] = {}
    if trial.kind == "student":
        memory, started = Memory(), time.perf_counter()
        with memory.watched():
            trained = learn(recipe, work, progress)
        log = trained.log
        cost = {
            "seconds": time.perf_counter() - started,
            "seconds_per_step": seconds_per_step(work, recipe.train.batch_size),
            "steps": log.steps,
            "kept_step": log.kept_step,
            "validated": log.validated,
            "peak_mib": max(memory.peaks, default=None),
            "memory": memory.peaks,
        }
        data, embed, width = trained.data, trained.student.embed, None
    else:
        data, width = prepare_data(recipe, progress, ground.runs), ground.width
        weights = None
        if trial.kind == "lightly-train":
            weights, cost = taught_by_lightly_train(trial, ground, recipe, work)
        embed = network(STUDENT, trial.size, weights)
    theirs = teachers(trial, data, ground, progress)
    ours = embedded(embed, STUDENT[0], trial.size, data, ground, progress)
    if width is not None:
        ours = undistilled(ours, width)
    return Outcome(
        student=judged(data, theirs, ours), teacher=judged(data, theirs, theirs), **cost
    )


def seconds_per_step(work: Path, batch: int) -> float | None:
    """Return the median time of a run's steps by its journal; None without steps."""
    path = work / METRICS
    rows = path.read_text().splitlines() if path.exists() else []
    rates = [json.loads(row).get("images_per_second") for row in rows]  # None: validation
    known = [rate for rate in rates if rate is not None]
    return batch / statistics.median(known) if known else None


def main() -> None:
    """Run the trial that is given as JSON."""
    parser = parser_of(__doc__)
    parser.add_argument("trial")
    parser.add_argument("--verbose", action="store_true", help="show progress")
    options, ground = parsed(parser)
    trial = Trial.model_validate_json(options.trial)
    path = ground.path(trial)
    path.parent.mkdir(parents=True, exist_ok=True)
    work = path.with_suffix(".work")
    shutil.rmtree(work, ignore_errors=True)  # of a trial that was interrupted
    with (
        contextlib.redirect_stdout(sys.stderr),
        Progress(disable=not options.verbose) as progress,
    ):
        outcome = outcome_of(trial, ground, work, progress)
    path.write_text(outcome.model_dump_json(indent=2))
    shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()

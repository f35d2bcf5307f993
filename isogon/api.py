"""What `import isogon` offers: a function for each stage.

Each loads its stage when it is called, and is silent unless it is given `progress`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress

from isogon.bundle import ONNX, TRAINING_DETECTOR, Bundle, detector_spec
from isogon.bundle.evaluation import EVALUATION, Evaluation
from isogon.bundle.manifest import Stage
from isogon.errors import UsageError
from isogon.images.collection import LOCAL_LIMITS
from isogon.images.decoding import ImageLimits
from isogon.model import Model
from isogon.runtimes.cores import usable_cores

if TYPE_CHECKING:
    from distill import Recipe
    from export import Exported, Verified
    from isogon.bulk import Summary

_Place = str | Path


def load(
    path: _Place,
    *,
    artifact: str = ONNX,
    threads: int | None = None,
    limits: ImageLimits = LOCAL_LIMITS,
) -> Model:
    """Open a bundle, or an exported ONNX file alone, to embed images. No torch.

    Args, Raises: see `isogon.Model.open`.

    Example:
        >>> model = isogon.load("photos.isogon")
        >>> answers = model.embed(["a.jpg", Image.open("b.jpg"), array])
        >>> answers.embeddings.shape, answers.is_ood
    """
    return Model.open(path, artifact=artifact, threads=threads, limits=limits)


def distill(
    recipe: "_Place | Recipe | None" = None,
    *,
    images: _Place | None = None,
    unfamiliar: _Place | Mapping[str, _Place] | None = None,
    teacher: str | Sequence[str] = (),
    student: str | None = None,
    width: int | None = None,
    size: int | None = None,
    teacher_size: int | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    seed: int | None = None,
    settings: Mapping[str, Any] | None = None,
    output: _Place | None = None,
    progress: Progress | None = None,
) -> Bundle:
    """Teach a student what a teacher knows of a folder of images, and evaluate it.

    What is left open is chosen as `isogon distill` does. A run that was stopped continues
    when it is called again with the same `output`.

    Args:
        recipe: a TOML file or a `Recipe`; None: the other arguments say it all. The
            arguments replace the keys of a file; beside a `Recipe` none may be given.
        images: a folder, tars, a list, or Parquet.
        unfamiliar: out-of-distribution images that the score should flag, or several
            sets by name.
        teacher: `NAME[:CHECKPOINT]` of timm, or `package.module:factory`; or several.
        student: as `teacher`.
        width: of the embedding.
        size: pixels the student sees, height and width.
        teacher_size: pixels the teacher sees.
        epochs: length in passes over the images; 0 for the closed-form student alone.
        steps: length in steps of one batch.
        minutes: length of the whole run on this machine.
        seed: of views, their order, and new layers.
        settings: any other key, such as {"train.learning_rate": 1e-3}.
        output: the bundle to make; None: `NAME.isogon` in the current folder.
        progress: where to show progress.

    Raises:
        UsageError: the recipe, the images or the models are not in order, or something
            is at `output`.
    """
    from distill import Recipe, Wanted, chosen_from

    sets = unfamiliar if isinstance(unfamiliar, Mapping) else {"": unfamiliar}
    wanted = Wanted(
        images=_text(images),
        unfamiliar=tuple(
            f"{name}={place}" if name else str(place)
            for name, place in sets.items()
            if place is not None
        ),
        teacher=(teacher,) if isinstance(teacher, str) else tuple(teacher),
        student=student,
        width=width,
        size=size,
        teacher_size=teacher_size,
        epochs=epochs,
        steps=steps,
        seed=seed,
        settings=tuple(
            f"{key}={json.dumps(value)}" for key, value in (settings or {}).items()
        ),
    )
    if isinstance(recipe, Recipe):
        given = [
            one.name for one in fields(wanted) if getattr(wanted, one.name) != one.default
        ]
        if given:
            raise UsageError(
                f"Expected a Recipe or {given[0]}=, got both. Change the recipe instead."
            )
        found = recipe
    else:
        file = None if recipe is None else Path(recipe)
        found = chosen_from(file, wanted, minutes=minutes).recipe
    from distill.distillation import distill as run

    place = Path(output or f"{found.name}.isogon")
    return run(found, place, _silent(progress), minutes=minutes)


def evaluate(bundle: _Place | Bundle, *, progress: Progress | None = None) -> Evaluation:
    """Measure again what the student kept of its teacher, on the recipe's images.

    The bundle's `evaluation.json` and `report.html` are replaced.

    Raises:
        UsageError: images or weights are no longer where the recipe says.
        BundleError: the bundle is damaged.
    """
    from distill.evaluation.corruptions import CorruptionChoice
    from distill.evaluation.reevaluation import Moved, reevaluate

    return reevaluate(
        _opened(bundle, "evaluate"),
        _silent(progress),
        moved=Moved(),
        with_teacher=True,
        corruptions=CorruptionChoice(),
    )


def evaluation(bundle: _Place | Bundle) -> Evaluation:
    """Return the evaluation that a bundle holds, without measuring."""
    return _opened(bundle).record(EVALUATION, Evaluation)


def export(
    bundle: _Place | Bundle,
    *,
    fp16: bool = False,
    int8: bool = False,
    finetune: bool = False,
    progress: Progress | None = None,
) -> "Exported":
    """Write ONNX files; each enters the bundle only if it passes parity.

    Args:
        bundle: a distilled bundle.
        fp16: add float16, for GPUs.
        int8: add int8, for CPUs too.
        finetune: train int8's weights for some minutes to answer as float32 does.
        progress: where to show progress.

    Raises:
        BundleError: the bundle is damaged.
        UsageError: `finetune` without `int8`.
        CheckFailedError: an artifact does not pass; those that passed are in.
    """
    from export import FINETUNING_STEPS, ExportPlan, export_bundle, lower_precisions

    lower = lower_precisions(fp16=fp16, int8=int8)
    plan = ExportPlan(lower=lower, finetune=FINETUNING_STEPS if finetune else 0)
    opened = _opened(bundle, "export")
    exported = export_bundle(opened, _silent(progress), plan)
    exported.require()
    return exported


def verify(bundle: _Place | Bundle, *, progress: Progress | None = None) -> "Verified":
    """Check every hash and repeat every parity claim, on this machine.

    Raises:
        BundleError: the bundle is damaged, or has no artifact.
        CheckFailedError: a claim does not hold here.
    """
    from export import verify as run

    verified = run(_opened(bundle), _silent(progress))
    verified.require()
    return verified


def calibrate(
    bundle: _Place | Bundle,
    *,
    images: _Place,
    alpha: float | None = None,
    progress: Progress | None = None,
) -> "Exported":
    """Refit the detector on in-distribution images of the place where the model runs.

    Args:
        bundle: a distilled bundle.
        images: a folder of images that are familiar there.
        alpha: the share of familiar images that may be flagged; None: as it is.
        progress: where to show progress.

    Raises:
        UsageError: too few images for alpha.
        CheckFailedError: the new artifact does not pass; the old one stays.
    """
    from export import calibrate as run

    opened = _opened(bundle, "calibrate", "export")
    spec = detector_spec(opened, TRAINING_DETECTOR)
    if alpha is not None:
        spec = spec.model_validate(spec.model_dump() | {"alpha": alpha})
    exported = run(opened, Path(images), _silent(progress), spec=spec)
    exported.require()
    return exported


def embed(
    bundle: _Place | Bundle,
    images: _Place,
    output: _Place,
    *,
    artifact: str = ONNX,
    workers: int | None = None,
    progress: Progress | None = None,
) -> "Summary":
    """Embed a folder, tar or list of images into one Parquet file; see `isogon embed`.

    Args:
        bundle: an exported bundle.
        images: what to embed.
        output: the Parquet file to make.
        artifact: what to run.
        workers: processes, each with a model on one core; None: one per core.
        progress: where to show progress.

    Raises:
        UsageError: no such images, or something is at `output`.
        BundleError: the bundle is damaged, or nothing vouches for its artifact.
    """
    from isogon.bulk import ProcessEngine, embed as run

    return run(
        bundle.path if isinstance(bundle, Bundle) else Path(bundle),
        str(images),
        Path(output),
        _silent(progress),
        engine=ProcessEngine(workers=workers or usable_cores()),
        artifact=artifact,
    )


def serve(*bundles: _Place, host: str = "127.0.0.1", port: int = 3000) -> None:
    """Serve embeddings and scores over HTTP in this process, until it is interrupted.

    Args:
        bundles: directories, or `NAME=DIRECTORY`; the first is the default.
        host: the address to listen on.
        port: the TCP port.

    Raises:
        IsogonError: a setting, a bundle or its golden check is not in order.
    """
    from serving import serve as run

    run([str(bundle) for bundle in bundles], host=host, port=port)


def _opened(bundle: _Place | Bundle, *rewriting: Stage) -> Bundle:
    path = bundle.path if isinstance(bundle, Bundle) else Path(bundle)
    return Bundle.open(path, rewriting=rewriting)


def _silent(progress: Progress | None) -> Progress:
    return progress or Progress(console=Console(quiet=True), disable=True)


def _text(place: _Place | None) -> str | None:
    return None if place is None else str(place)

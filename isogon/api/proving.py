"""`export`, `verify` and `calibrate`: artifacts, each gated by parity."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from isogon.api.opening import Place, opened_bundle, shown
from isogon.bundle import TRAINING_DETECTOR, Bundle, detector_spec
from isogon.errors import UsageError
from isogon.images import ImageFolder
from isogon.images.collection import spread
from isogon.ood import DetectorSpec, detector_class
from isogon.progress import Progress
from isogon.runtimes import BatchProfile
from isogon.stages import require_own

if TYPE_CHECKING:
    from distill import Recipe
    from export import Divergence, Exported, Verified
    from isogon.parity import ParityReport
    from isogon.runtimes import Pixels

_FINETUNED_ON = 2048  # images of the training, held in memory


def export(
    bundle: Place | Bundle,
    *,
    fp16: bool = False,
    int8: bool = False,
    engine: Literal["tensorrt", "tensorrt-rtx"] | None = None,
    batch: str = "1:8:32",
    version_compatible: bool = False,
    hardware_compatible: bool = False,
    build_only: bool = False,
    opset: int = 20,
    runtimes: Sequence[str] = (),
    bank: int | None = None,
    ranges: Literal["percentile", "entropy"] = "percentile",
    repair: bool = True,
    finetune: bool = False,
    finetune_on: Place | None = None,
    bounds: Sequence[str] = (),
    images: Place | None = None,
    check: bool = True,
    progress: Progress | None = None,
) -> "Exported":
    """Write ONNX files and engines; each enters the bundle only if it passes parity.

    Args:
        bundle: a distilled bundle.
        fp16: add float16, for GPUs.
        int8: add int8, for CPUs too.
        engine: add an engine in the precisions asked for, or else in float32.
        batch: smallest, usual and largest batch of an engine, as "MIN:OPT:MAX".
        version_compatible: an engine that later versions of TensorRT load too.
        hardware_compatible: an engine for every GPU from Ampere (sm80) on.
        build_only: build engines of tensorrt-rtx where they cannot run.
        opset: the version of ONNX's operators, from 18 to 20.
        runtimes: others that shall run the ONNX files too, such as "openvino".
        bank: reduce the detector's bank to so many vectors.
        ranges: how the ranges of int8's activations are chosen.
        repair: keep in float32 the few nodes that make a lower precision fail.
        finetune: train int8's weights for some minutes to answer as float32 does.
        finetune_on: a folder of more real images for that, which asks for it too.
        bounds: other bounds of the gate, such as "int8.min_cosine=0.98".
        images: a folder of more real images to compare on.
        check: raise if an artifact does not pass; else the result says so.
        progress: where to show progress.

    Raises:
        UsageError: an option does not fit.
        BundleError: the bundle is damaged.
        CheckFailedError: an artifact does not pass; those that passed are in.
    """
    require_own("export")
    from export import (
        FINETUNING_STEPS,
        ExportPlan,
        export_bundle,
        lower_precisions,
        tolerances,
    )

    profile = BatchProfile.parse(batch)
    opened, bars = opened_bundle(bundle, "export"), shown(progress)
    lower = lower_precisions(fp16=fp16, int8=int8)
    plan = ExportPlan(
        lower=lower,
        engine=engine,
        build_only=build_only,
        version_compatible=version_compatible,
        hardware_compatible=hardware_compatible,
        profile=profile,
        opset=opset,
        runtimes=tuple(runtimes),
        bank=bank,
        repair=repair,
        ranges=ranges,
        finetune=FINETUNING_STEPS if finetune or finetune_on is not None else 0,
        finetune_on=_more_pixels(finetune_on, opened, bars),
        tolerances=tolerances(bounds, made=("fp32", *lower)),
        extra=_more_pixels(images, opened, bars),
    )
    exported = export_bundle(opened, bars, plan)
    if check:
        exported.require()
    return exported


def export_trained(
    bundle: Bundle, recipe: "Recipe", progress: Progress | None = None
) -> "Exported":
    """Write ONNX in float32 and int8, int8 fine-tuned on images of the training.

    Args:
        bundle: just distilled.
        recipe: by which it was; its images are where they were.
        progress: where to show progress.

    Raises:
        UsageError: the images are gone.
    """
    require_own("distill")
    require_own("export")
    from distill.images.data import prepare_data
    from export import FINETUNING_STEPS, ExportPlan, export_bundle

    opened, bars = opened_bundle(bundle, "export"), shown(progress)
    data = prepare_data(recipe, shown(None))  # the run has said it all
    chosen = data.learnt[spread(len(data.learnt), _FINETUNED_ON)]
    pixels = data.familiar.pixels(chosen, opened.manifest.preprocessing, bars)
    plan = ExportPlan(lower=("int8",), finetune=FINETUNING_STEPS, finetune_on=pixels)
    return export_bundle(opened, bars, plan)


def verify(
    bundle: Place | Bundle,
    *,
    vouch: bool = False,
    bounds: Sequence[str] = (),
    images: Place | None = None,
    check: bool = True,
    progress: Progress | None = None,
) -> "Verified":
    """Check every hash and repeat every parity claim, on this machine.

    Args:
        bundle: an exported bundle.
        vouch: let engines in that were only built, if they pass on this machine.
        bounds: for the engines that `vouch` lets in, such as "fp16.min_cosine=0.99".
        images: a folder of more real images to compare on.
        check: raise if a claim does not hold; else the result says so.
        progress: where to show progress.

    Raises:
        UsageError: an option does not fit.
        BundleError: the bundle is damaged, or has no artifact.
        CheckFailedError: a claim does not hold here.
    """
    require_own("export")
    from export import tolerances, verify as run

    if bounds and not vouch:
        raise UsageError(
            "Bounds are for engines that `vouch` lets in; every other artifact has to keep "
            "the bounds it was let in under. Add `vouch`, or leave the bounds out."
        )
    opened, bars = opened_bundle(bundle), shown(progress)
    verified = run(
        opened,
        bars,
        vouch=vouch,
        tolerances=tolerances(bounds),
        extra=_more_pixels(images, opened, bars),
    )
    if check:
        verified.require()
    return verified


def judge(run: Place, *, bounds: Sequence[str] = ()) -> "ParityReport":
    """Judge a saved parity run within other bounds; nothing is run or changed.

    Args:
        run: `parity/ARTIFACT.safetensors` in a bundle, or beside a rejected artifact.
        bounds: those to judge by, such as "int8.min_cosine=0.98".

    Returns:
        The report; it is false if a bound is broken.
    """
    require_own("export")
    from export import tolerances
    from isogon.parity import ParityRun

    loaded = ParityRun.load(Path(run))
    precision = loaded.claim.precision
    return loaded.judge(tolerances(bounds, made=(precision,))[precision])


def diverge(
    bundle: Place | Bundle,
    artifact: Place,
    *,
    bound: float | None = None,
    progress: Progress | None = None,
) -> "Divergence":
    """Find the first layer at which an artifact leaves the float32 reference.

    Args:
        bundle: a distilled bundle.
        artifact: an ONNX file: a name inside the bundle, or a path.
        bound: relative error from which a node counts as diverging; None: what the
            precision usually shows.
        progress: where to show progress.
    """
    require_own("export")
    from export import divergence_of

    return divergence_of(
        opened_bundle(bundle), Path(artifact), shown(progress), bound=bound
    )


def calibrate(
    bundle: Place | Bundle,
    *,
    images: Place,
    detector: str | None = None,
    k: int | None = None,
    dim: int | None = None,
    alpha: float | None = None,
    check: bool = True,
    progress: Progress | None = None,
) -> "Exported":
    """Refit the detector on in-distribution images of the place where the model runs.

    Args:
        bundle: a distilled bundle.
        images: a folder of images that are familiar there.
        detector: its name; None: as in the recipe.
        k: which neighbour counts, or how many do; None: as it is.
        dim: of the principal subspace; None: as it is.
        alpha: the share of familiar images that may be flagged; None: as it is.
        check: raise if a new artifact does not pass; else the result says so.
        progress: where to show progress.

    Raises:
        UsageError: too few images, or no such detector or setting.
        CheckFailedError: the new artifact does not pass; the old one stays.
    """
    require_own("export")
    opened = opened_bundle(bundle, "calibrate", "export")
    spec = site_detector(opened, detector=detector, k=k, dim=dim, alpha=alpha)
    from export import calibrate as run

    exported = run(opened, Path(images), shown(progress), spec=spec)
    if check:
        exported.require()
    return exported


def site_detector(
    bundle: Bundle,
    *,
    detector: str | None = None,
    k: int | None = None,
    dim: int | None = None,
    alpha: float | None = None,
) -> DetectorSpec:
    """Return the recipe's detector with what is to be another; see `calibrate`.

    Raises:
        UsageError: no such detector, or it does not read a setting.
    """
    spec = detector_spec(bundle, TRAINING_DETECTOR)
    given: dict[str, Any] = {"name": detector, "k": k, "dim": dim, "alpha": alpha}
    given = {key: value for key, value in given.items() if value is not None}
    if detector not in (None, spec.name):  # k and dim are another's
        given = {"k": None, "dim": None} | given
    spec = spec.model_validate(spec.model_dump() | given)
    detector_class(spec.name)  # an unknown one is said before any work
    if k is not None or dim is not None:
        spec.require_read()
    return spec


def _more_pixels(
    images: Place | None, bundle: Bundle, progress: Progress
) -> "Pixels | None":
    """Return a folder's images as the bundle's student sees them."""
    if images is None:
        return None
    preprocessing = bundle.manifest.preprocessing
    folder = ImageFolder.list(Path(images)).ranging(preprocessing.range)
    folder.say(progress)
    return folder.pixels(folder.readable(progress), preprocessing, progress)

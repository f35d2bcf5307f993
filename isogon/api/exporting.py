"""`export`, `verify`, `judge`, `diverge`, `calibrate`: artifacts and their parity.

`export_trained` is for `isogon distill --int8` alone, which has the recipe at hand.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from isogon.api.arguments import Place, opened_bundle, shown, source_of, texts
from isogon.bundle import TRAINING_DETECTOR, Bundle, detector_spec
from isogon.errors import UsageError, option
from isogon.images import open_images
from isogon.images.collection import spread
from isogon.ood import DetectorSpec, detector_class
from isogon.progress import Progress
from isogon.runtimes import BatchProfile
from isogon.stage_imports import load_stage

if TYPE_CHECKING:
    from distill import Recipe
    from export import Divergence, Exported, Verified
    from isogon.parity import ParityReport
    from isogon.runtimes import Pixels

_FINETUNED_ON = 2048  # training images, held in memory


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
    runtimes: str | Sequence[str] = (),
    bank: int | None = None,
    ranges: Literal["percentile", "entropy"] = "percentile",
    repair: bool = True,
    finetune: bool = False,
    finetune_on: Place | None = None,
    bounds: str | Sequence[str] = (),
    images: Place | None = None,
    check: bool = True,
    progress: Progress | None = None,
) -> "Exported":
    """Write ONNX files and engines; each enters the bundle only if it passes parity.

    Args:
        bundle: a distilled bundle.
        fp16: add float16, for GPUs.
        int8: add int8, for CPUs too.
        engine: add an engine in each precision asked for, by default float32.
        batch: smallest, usual and largest batch of an engine, as "MIN:OPT:MAX".
        version_compatible: build an engine that later versions of TensorRT load too.
        hardware_compatible: build an engine for every GPU from Ampere (sm80) on.
        build_only: build tensorrt-rtx engines on a machine that cannot run them.
        opset: the version of ONNX's operators, from 18 to 20.
        runtimes: further runtimes for the ONNX files, such as "openvino".
        bank: reduce the detector's bank to this number of vectors.
        ranges: how the ranges of int8's activations are chosen.
        repair: keep the few nodes that make a lower precision fail in float32.
        finetune: fine-tune int8's weights towards the float32 outputs, for minutes.
        finetune_on: more real images for fine-tuning; implies `finetune`.
        bounds: replacements of parity bounds, such as "int8.min_cosine=0.98".
        images: more real images to compare on: a folder, tars, a list or Parquet.
        check: raise if an artifact does not pass; False: only report it in the result.
        progress: where to show progress.

    Raises:
        UsageError: an option is not valid.
        BundleError: the bundle is damaged.
        CheckFailedError: an artifact does not pass; the others are in the bundle.

    Example:
        >>> exported = isogon.export("photos.isogon", fp16=True)
        >>> [report.artifact for report in exported.reports]
    """
    load_stage("export.plan", extra="export")
    from export.plan import FINETUNING_STEPS, ExportPlan, lower_precisions, tolerances

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
        runtimes=texts(runtimes),
        bank=bank,
        repair=repair,
        ranges=ranges,
        finetune=FINETUNING_STEPS if finetune or finetune_on is not None else 0,
        tolerances=tolerances(texts(bounds), made=("fp32", *lower)),
    )
    plan.require_possible()  # before images are read, or torch is loaded
    plan = replace(
        plan,
        finetune_on=_more_pixels(finetune_on, opened, bars),
        extra=_more_pixels(images, opened, bars),
    )
    load_stage("export.artifacts", extra="export", progress=bars)
    from export.artifacts import export_bundle

    exported = export_bundle(opened, bars, plan)
    if check:
        exported.require()
    return exported


def export_trained(
    bundle: Bundle, recipe: "Recipe", progress: Progress | None = None
) -> "Exported":
    """Write ONNX in float32 and int8, with int8 fine-tuned on training images.

    Args:
        bundle: just distilled.
        recipe: of the bundle; its images are still in place.
        progress: where to show progress.

    Raises:
        UsageError: the images are not there any more.
    """
    opened, bars = opened_bundle(bundle, "export"), shown(progress)
    load_stage("distill.images.data", extra="distill", progress=bars)
    load_stage("export.artifacts", extra="export", progress=bars)
    from distill.images.data import prepare_data
    from export import FINETUNING_STEPS, ExportPlan, export_bundle

    data = prepare_data(recipe, shown(None))  # the run has printed it already
    chosen = data.training[spread(len(data.training), _FINETUNED_ON)]
    pixels = data.familiar.pixels(chosen, opened.manifest.preprocessing, bars)
    plan = ExportPlan(lower=("int8",), finetune=FINETUNING_STEPS, finetune_on=pixels)
    return export_bundle(opened, bars, plan)


def verify(
    bundle: Place | Bundle,
    *,
    vouch: bool = False,
    bounds: str | Sequence[str] = (),
    images: Place | None = None,
    check: bool = True,
    progress: Progress | None = None,
) -> "Verified":
    """Check every hash and every parity claim again, on this machine.

    Args:
        bundle: an exported bundle.
        vouch: also check engines that were only built, and add those that pass.
        bounds: for the engines that `vouch` adds, such as "fp16.min_cosine=0.99".
        images: more real images to compare on: a folder, tars, a list or Parquet.
        check: raise if a claim does not hold; False: only report it in the result.
        progress: where to show progress.

    Raises:
        UsageError: an option is not valid.
        BundleError: the bundle is damaged, or has no artifact.
        CheckFailedError: a claim does not hold here.

    Example:
        >>> bool(isogon.verify("photos.isogon"))
    """
    if bounds and not vouch:
        raise UsageError(
            f"{option('bounds')} is only for engines that {option('vouch', True)} adds; "
            f"every other artifact keeps the bounds it was exported with. Add "
            f"{option('vouch', True)}, or leave {option('bounds')} out."
        )
    load_stage("export.plan", extra="export")
    from export.plan import tolerances

    allowed = tolerances(texts(bounds))
    opened, bars = opened_bundle(bundle), shown(progress)
    extra = _more_pixels(images, opened, bars)
    load_stage("export.verification", extra="export", progress=bars)
    from export.verification import verify as run

    verified = run(opened, bars, vouch=vouch, tolerances=allowed, extra=extra)
    if check:
        verified.require()
    return verified


def judge(run: Place, *, bounds: str | Sequence[str] = ()) -> "ParityReport":
    """Judge a saved parity run by other bounds; nothing is run or changed.

    Args:
        run: `parity/ARTIFACT.safetensors` in a bundle, or beside a rejected artifact.
        bounds: replacements of the precision's bounds, such as "int8.min_cosine=0.98".

    Returns:
        The report; it is false if a bound is broken.

    Example:
        >>> run = "photos.isogon/parity/model.onnx.safetensors"
        >>> bool(isogon.judge(run, bounds="fp32.min_cosine=0.999"))
    """
    load_stage("export.plan", extra="export")
    from export.plan import tolerances
    from isogon.parity import ParityRun

    loaded = ParityRun.load(Path(run))
    precision = loaded.claim.precision
    return loaded.judge(tolerances(texts(bounds), made=(precision,))[precision])


def diverge(
    bundle: Place | Bundle,
    artifact: Place,
    *,
    bound: float | None = None,
    progress: Progress | None = None,
) -> "Divergence":
    """Find the first layer at which an artifact differs from the float32 reference.

    Args:
        bundle: a distilled bundle.
        artifact: an ONNX file: a name inside the bundle, or a path.
        bound: relative error from which a node counts as diverging, at least 1e-12; None:
            the usual error of the precision.
        progress: where to show progress.

    Raises:
        UsageError: there is no such file, or the bound is too small.

    Example:
        >>> found = isogon.diverge("photos.isogon", "onnx/model.onnx")
        >>> found.first  # None if no layer differs
    """
    is_number = isinstance(bound, int | float)
    if bound is not None and not (is_number and 1e-12 <= bound < float("inf")):
        raise UsageError(f"Expected bound of at least 1e-12, such as 0.01; got {bound!r}.")
    opened, bars = opened_bundle(bundle), shown(progress)
    load_stage("export.divergence", extra="export", progress=bars)
    from export.divergence import divergence_of

    return divergence_of(opened, Path(artifact), bars, bound=bound)


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
    """Fit the detector again, on in-distribution images of the place where it will run.

    Args:
        bundle: a distilled bundle.
        images: a folder of in-distribution images of that place.
        detector: its name; None: the recipe's.
        k: the k-th neighbour (knn), or the number of them (nnguide); None: unchanged.
        dim: dimension of the principal subspace; None: unchanged.
        alpha: the share of in-distribution images that may be flagged; None: unchanged.
        check: raise if a new artifact does not pass; False: only report it in the result.
        progress: where to show progress.

    Raises:
        UsageError: there are too few images, or no such detector or setting.
        CheckFailedError: a new artifact does not pass; the old one stays.

    Example:
        >>> isogon.calibrate("photos.isogon", images="photos/", detector="knn")
    """
    opened, bars = opened_bundle(bundle, "calibrate", "export"), shown(progress)
    spec = _site_detector(opened, detector=detector, k=k, dim=dim, alpha=alpha)
    load_stage("export.calibration", extra="export", progress=bars)
    from export.calibration import calibrate as run

    exported = run(opened, Path(source_of(images)), bars, spec=spec)
    if check:
        exported.require()
    return exported


def _site_detector(
    bundle: Bundle,
    *,
    detector: str | None = None,
    k: int | None = None,
    dim: int | None = None,
    alpha: float | None = None,
) -> DetectorSpec:
    """Return the recipe's detector with these changes; see `calibrate`.

    Raises:
        UsageError: there is no such detector, or it does not use a setting.
    """
    spec = detector_spec(bundle, TRAINING_DETECTOR)
    given: dict[str, Any] = {"name": detector, "k": k, "dim": dim, "alpha": alpha}
    given = {key: value for key, value in given.items() if value is not None}
    if detector not in (None, spec.name):  # k and dim belong to the recipe's detector
        given = {"k": None, "dim": None} | given
    try:
        spec = spec.model_validate(spec.model_dump() | given)
    except ValidationError as error:
        fault = error.errors()[0]
        raise UsageError(
            f"{option(str(fault['loc'][0]))}: {fault['msg']}, got {fault['input']!r}."
        ) from error
    detector_class(spec.name)  # report an unknown one before any work
    if k is not None or dim is not None:
        spec.require_read()
    return spec


def _more_pixels(
    images: Place | None, bundle: Bundle, progress: Progress
) -> "Pixels | None":
    """Return the images of a source, preprocessed for the bundle's student."""
    if images is None:
        return None
    preprocessing = bundle.manifest.preprocessing
    found = open_images(source_of(images)).ranging(preprocessing.range)
    found.say(progress)
    return found.pixels(found.readable(progress), preprocessing, progress)

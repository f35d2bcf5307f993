"""The detector in force: which it is, what it was fitted on, and its reduced bank.

A bundle has the detector that was fitted in training, and maybe one that `isogon
calibrate` fitted at the site, which is then in force. `isogon export --bank` may reduce
the bank of either.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from safetensors import safe_open

from isogon.bundle.bundle import Bundle
from isogon.errors import BundleError, DamagedFileError
from isogon.ood import Detector, DetectorSpec

TRAINING_DETECTOR = "ood"
SITE_DETECTOR = "ood/site"
FITTED = "fitted.json"  # in the folder of either detector
HELD_OUT = "held_out.safetensors"
REDUCTION = "onnx/reduction.json"
REDUCED = "onnx/reduction.safetensors"
_BANKS = ("bank", "nnguide.guides")  # statistics with one vector per image
_Sha256 = Field(pattern="^[0-9a-f]{64}$")


class FittedOn(BaseModel):
    """What a detector was fitted on, as the bundle records it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    images: str  # their source
    bank: int = Field(ge=1)  # number of images; other images calibrate


class Reduction(BaseModel):
    """Which bank was reduced to how many vectors, and the AUROC before and after.

    It is in force as long as the detector has the statistics it was made from. A bundle
    without one has the whole bank.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["spherical k-means"] = "spherical k-means"
    statistics: str = _Sha256  # of the `reference.safetensors` that was reduced
    vectors: str = _Sha256  # of `onnx/reduction.safetensors`, the reduced statistics
    bank: int = Field(ge=1)  # vectors before
    size: int = Field(ge=1)  # vectors now
    k_before: int = Field(ge=1)
    k: int = Field(ge=1)
    familiar: int = Field(ge=0)  # held-out images that the AUROC is measured on
    unfamiliar: int = Field(ge=0)
    auroc_before: float | None  # None without unfamiliar images
    auroc: float | None

    @property
    def whole(self) -> bool:
        """Whether nothing was reduced."""
        return self.size == self.bank

    def function(self) -> dict[str, str | int] | None:
        """Return its part of the function's digest; None if nothing is reduced."""
        return None if self.whole else {"vectors": self.vectors, "k": self.k}


class DetectorInForce(BaseModel):
    """The detector that the artifacts contain, or will contain once exported."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    spec: DetectorSpec
    fitted: Literal["training", "site"]
    images: str | None  # their source; None in older bundles
    bank: int | None  # images it was fitted on; None in some older bundles
    reduced_bank: int | None  # vectors after `isogon export --bank`; None: all
    calibration: int  # number of images whose scores calibrate the p-values

    @classmethod
    def of(cls, bundle: Bundle) -> "DetectorInForce":
        """Return the description of a bundle's detector; no array is read."""
        folder = detector_in_force(bundle)
        record, statistics = f"{folder}/{FITTED}", f"{folder}/reference.safetensors"
        found = bundle.record(record, FittedOn) if record in bundle else None
        reduction = reduction_in_force(bundle, folder)
        return cls(
            spec=detector_spec(bundle, folder),
            fitted="site" if folder == SITE_DETECTOR else "training",
            images=None if found is None else found.images,
            bank=_rows(bundle, statistics, *_BANKS) if found is None else found.bank,
            reduced_bank=None if reduction is None or reduction.whole else reduction.size,
            calibration=_rows(bundle, held_out_for(folder), "familiar") or 0,
        )


def detector_in_force(bundle: Bundle) -> str:
    """Return the folder of the detector in force: the site's, else that of training."""
    on_site = f"{SITE_DETECTOR}/detector.json" in bundle
    return SITE_DETECTOR if on_site else TRAINING_DETECTOR


def detector_spec(bundle: Bundle, folder: str) -> DetectorSpec:
    """Return the specification of the detector in `folder`."""
    return bundle.record(f"{folder}/detector.json", DetectorSpec)


def held_out_for(folder: str) -> str:
    """Return the file of the images that calibrate the detector in `folder`."""
    return f"{folder}/{HELD_OUT}" if folder == SITE_DETECTOR else HELD_OUT


def reduction_in_force(bundle: Bundle, folder: str) -> Reduction | None:
    """Return the reduction of the bank of the detector in `folder`, or None.

    Raises:
        DamagedFileError: its files do not match the manifest.
    """
    if REDUCTION not in bundle:
        return None
    for name in (REDUCTION, REDUCED):  # `isogon export` has not verified them
        fault = bundle.fault(name) if name in bundle else None
        if fault is not None:
            raise DamagedFileError(
                f"{bundle.path}: {name} {fault}. Reduce the bank again with `isogon "
                f"export {bundle.path} --bank N`; an N beyond its size keeps all of it."
            )
    reduction = bundle.record(REDUCTION, Reduction)
    statistics = bundle.manifest.files[f"{folder}/reference.safetensors"].sha256
    return reduction if reduction.statistics == statistics else None


def reduced_detector(bundle: Bundle, spec: DetectorSpec, reduction: Reduction) -> Detector:
    """Return the detector `spec` with its reduced bank.

    Raises:
        BundleError: the vectors are not those of the reduction.
    """
    found = bundle.manifest.files[REDUCED].sha256 if REDUCED in bundle else "nothing"
    if found != reduction.vectors:
        raise BundleError(
            f"{bundle.path}: {REDUCTION} is for the vectors {reduction.vectors[:12]}…, "
            f"found {found[:12]}… as {REDUCED}. Run `isogon export {bundle.path} --bank "
            f"{reduction.size}` again."
        )
    spec = spec.model_copy(update={"k": reduction.k})
    return spec.load(bundle.arrays(REDUCED))


def _rows(bundle: Bundle, name: str, *arrays: str) -> int | None:
    """Return the length of the first of these arrays that is in the file, or None."""
    with safe_open(bundle.file(name), framework="numpy") as file:
        held = set(file.keys())
        for array in arrays:
            if array in held:
                return int(file.get_slice(array).get_shape()[0])
    return None

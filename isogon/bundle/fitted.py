"""The detector in force: which it is, where it was fitted, and on how many images."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from safetensors import safe_open

from isogon.bundle.reduction import reduction_in_force
from isogon.bundle.store import Bundle
from isogon.ood import DetectorSpec

TRAINING_DETECTOR = "ood"
SITE_DETECTOR = "ood/site"
FITTED = "fitted.json"  # in either folder
HELD_OUT = "held_out.safetensors"

_BANKS = ("bank", "nnguide.guides")  # the statistics that are a vector for each image


class FittedOn(BaseModel):
    """What a detector was fitted on, as the bundle records it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    images: str  # where they were
    bank: int = Field(ge=1)  # how many of them; others calibrate


class DetectorInForce(BaseModel):
    """The detector that the artifacts hold, or will once they are exported."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    spec: DetectorSpec
    fitted: Literal["training", "site"]
    images: str | None  # where they were; None in older bundles
    bank: int | None  # images it was fitted on; None in some older bundles
    reduced_bank: int | None  # vectors that `isogon export --bank` left; None: all
    calibration: int  # images whose scores the p-values are relative to

    @classmethod
    def of(cls, bundle: Bundle) -> "DetectorInForce":
        """Return what the bundle holds of it; no array is read."""
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
    """Return where the detector in force is kept: the site's, else the training's."""
    on_site = f"{SITE_DETECTOR}/detector.json" in bundle
    return SITE_DETECTOR if on_site else TRAINING_DETECTOR


def detector_spec(bundle: Bundle, folder: str) -> DetectorSpec:
    """Return the specification of the detector kept in `folder`."""
    return bundle.record(f"{folder}/detector.json", DetectorSpec)


def held_out_for(folder: str) -> str:
    """Return the file of the images that calibrate the detector kept in `folder`."""
    return f"{folder}/{HELD_OUT}" if folder == SITE_DETECTOR else HELD_OUT


def _rows(bundle: Bundle, name: str, *arrays: str) -> int | None:
    """Return the length of the first of these arrays that the file holds, if any."""
    with safe_open(bundle.file(name), framework="numpy") as file:
        held = set(file.keys())
        for array in arrays:
            if array in held:
                return int(file.get_slice(array).get_shape()[0])
    return None

"""A smaller bank for the graph, chosen from the detector's: how, and what it costs."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from isogon.bundle.store import Bundle
from isogon.errors import BundleError, DamagedFileError
from isogon.ood import Detector, DetectorSpec

REDUCTION = "onnx/reduction.json"
REDUCED = "onnx/reduction.safetensors"

_Sha256 = Field(pattern="^[0-9a-f]{64}$")


class Reduction(BaseModel):
    """Which bank was reduced to how many vectors, and the detection before and after.

    It is in force as long as the detector is the one whose statistics it was made from.
    A bundle holds none where the bank is whole.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["spherical k-means"] = "spherical k-means"
    statistics: str = _Sha256  # of the `reference.safetensors` that was reduced
    vectors: str = _Sha256  # of `onnx/reduction.safetensors`, what is left of it
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
        """Whether the bank is all there."""
        return self.size == self.bank

    def function(self) -> dict[str, str | int] | None:
        """Return what the deployed function owes to it; None if nothing is reduced."""
        return None if self.whole else {"vectors": self.vectors, "k": self.k}


def reduction_in_force(bundle: Bundle, folder: str) -> Reduction | None:
    """Return the reduction of the bank of the detector in `folder`, if there is one.

    Raises:
        DamagedFileError: what was kept of it is not what the manifest promises.
    """
    if REDUCTION not in bundle:
        return None
    for name in (REDUCTION, REDUCED):  # an export does not verify its own older files
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
    """Return the detector `spec` with the bank that `reduction` left it.

    Raises:
        BundleError: the vectors are not those that were chosen.
    """
    found = bundle.manifest.files[REDUCED].sha256 if REDUCED in bundle else "nothing"
    if found != reduction.vectors:
        raise BundleError(
            f"{bundle.path}: {REDUCTION} is about the vectors {reduction.vectors[:12]}…, "
            f"found {found[:12]}… as {REDUCED}. Run `isogon export {bundle.path} --bank "
            f"{reduction.size}` again."
        )
    spec = spec.model_copy(update={"k": reduction.k})
    return spec.load(bundle.arrays(REDUCED))

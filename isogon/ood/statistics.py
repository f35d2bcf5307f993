"""Statistics read from a bundle: each array is checked for presence, shape and NaN."""

from dataclasses import dataclass, field

import numpy as np

from isogon.errors import BundleError


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredStatistics:
    """The arrays of `reference.safetensors`, taken one by one and checked."""

    detector: str
    arrays: dict[str, np.ndarray]
    sizes: dict[str, int] = field(default_factory=dict)  # of the axes taken so far

    def take(self, name: str, axes: str) -> np.ndarray:
        """Return an array whose axes are named as in jaxtyping, such as "n d".

        Raises:
            BundleError: it is missing, has other axes, an axis whose size differs from an
                array taken before, or a value that is not finite.
        """
        if name not in self.arrays:
            held = ", ".join(sorted(self.arrays)) or "nothing"
            raise self._fault(f"expected the array `{name}`, found {held}")
        array, names = self.arrays[name], axes.split()
        if array.ndim != len(names) or array.dtype.kind not in "fi" or not array.size:
            raise self._fault(
                f"`{name}` is {array.dtype} {list(array.shape)}, expected numbers "
                f"[{', '.join(names)}]"
            )
        for axis, size in zip(names, array.shape, strict=True):
            if self.sizes.setdefault(axis, size) != size:
                raise self._fault(
                    f"`{name}` is {list(array.shape)}, but {axis} = {self.sizes[axis]} "
                    f"in the other arrays"
                )
        if not np.isfinite(array).all():
            raise self._fault(f"`{name}` has values that are not finite")
        return array

    def require_bank(self, k: int) -> None:
        """Raise `BundleError` unless the axis `n` taken before is at least k."""
        if self.sizes["n"] < k:
            raise self._fault(f"{self.sizes['n']} references are too few for k = {k}")

    def _fault(self, fault: str) -> BundleError:
        return BundleError(
            f"The stored statistics do not fit a {self.detector} detector: {fault}. "
            f"Fit it again with `isogon calibrate`, or restore the bundle."
        )

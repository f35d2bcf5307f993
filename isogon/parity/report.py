"""The parity report of one artifact: its figures, their bounds, and the file's hash.

The report names the SHA-256 of the artifact it vouches for (rule 4), and contains that
artifact's own calibration (rule 5).
"""

from pydantic import Field

from isogon.ood.calibration import Calibration
from isogon.parity.figures import Figures, Stability
from isogon.parity.tolerance import Check, ParityRecord, Tolerance
from isogon.runtimes.runner import Precision


class ParityReport(ParityRecord):
    """What was compared, the result, and the hash of the file it is for.

    Truthy only if images were compared and every bound holds. NaN fails.
    """

    artifact: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    tensors: str | None = None  # SHA-256 of the separate file of weights, over 2 GB
    # SHA-256 of the function it should compute.
    function: str = Field(pattern="^[0-9a-f]{64}$")
    precision: Precision
    reference: str
    candidate: str
    batch_sizes: tuple[int, ...]
    figures: Figures  # the worst over all batch sizes
    stability: Stability
    tolerance: Tolerance
    calibration: Calibration | None  # None only if its scores are not finite

    @property
    def checks(self) -> tuple[Check, ...]:
        """Every figure with its bound, in the order of display."""
        return self.figures.checks(self.tolerance) + self.stability.checks(self.tolerance)

    @property
    def failures(self) -> tuple[str, ...]:
        """Each broken bound, in one line."""
        found = self.figures.failures(self.tolerance)
        found += tuple(str(c) for c in self.stability.checks(self.tolerance) if not c)
        if self.calibration is None:
            found += ("its OOD scores are not finite and allow no calibration",)
        return found

    def __bool__(self) -> bool:
        return not self.failures

    def __repr__(self) -> str:
        """Return the verdict in one line; all figures with their scores fill pages."""
        verdict = f"broken: {'; '.join(self.failures)}" if self.failures else "passed"
        return (
            f"ParityReport({self.artifact} on {self.candidate}: {verdict}; minimum cosine "
            f"{self.figures.min_cosine:.7f}, {self.figures.images:,} images)"
        )

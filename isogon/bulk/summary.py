"""The figures of a finished bulk run."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """The figures of a run that is finished."""

    output: Path
    images: int
    embedded: int
    unreadable: int
    passed_over: int  # files of the source that are none of its images
    unreadable_list: Path | None  # CSV of name and reason; None where all were read
    flagged: int  # of those embedded
    alpha: float
    width: int
    fingerprint: str  # of the artifact
    runner: str
    continued: int  # images that an earlier start had done
    seconds: float  # of this start, without checking and merging

    @property
    def unreadable_share(self) -> float:
        """Share of the images that could not be read."""
        return self.unreadable / self.images

    @property
    def images_per_second(self) -> float | None:
        """The speed of this start; None where nothing was left to do."""
        done = self.images - self.continued
        return done / self.seconds if done else None

    def document(self) -> dict[str, object]:
        """Return it for JSON."""
        listed = self.unreadable_list
        return {
            "output": str(self.output),
            "images": self.images,
            "embedded": self.embedded,
            "unreadable": self.unreadable,
            "passed_over": self.passed_over,
            "unreadable_list": None if listed is None else str(listed),
            "flagged": self.flagged,
            "alpha": self.alpha,
            "width": self.width,
            "fingerprint": self.fingerprint,
            "runner": self.runner,
            "continued": self.continued,
            "seconds": self.seconds,
            "images_per_second": self.images_per_second,
        }

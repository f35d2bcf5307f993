"""An ONNX file alone: from image files to embeddings and decisions, without its bundle."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8
from rich.progress import Progress

from isogon.bundle.metadata import Metadata
from isogon.bundle.stage import sha256_of
from isogon.errors import ImageError, UsageError
from isogon.images import ImageLimits, decode
from isogon.images.collection import LOCAL_LIMITS
from isogon.runtimes import OnnxRunner

BATCH = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What the file says of one image."""

    name: str
    embedding: Float32[np.ndarray, " d"]  # unit norm
    ood_score: float  # larger = less familiar
    p_value: float
    is_ood: bool  # p_value <= the calibration's alpha

    def document(self) -> dict[str, object]:
        """Return it for JSON, worded as the service's answers are."""
        ood = {
            "score": self.ood_score,
            "p_value": self.p_value,
            "is_ood": self.is_ood,
        }
        return {"name": self.name, "embedding": self.embedding.tolist(), "ood": ood}


@dataclass(frozen=True, kw_only=True, slots=True)
class Unread:
    """An image that could not be read, and why."""

    name: str
    reason: str  # to be read after the name: "is empty. Send …"

    def document(self) -> dict[str, object]:
        """Return it for JSON."""
        return {"name": self.name, "error": self.reason}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Seen:
    """An image that was read."""

    name: str
    pixels: UInt8[np.ndarray, "h w 3"]


class StandaloneModel:
    """An exported ONNX file that carries what is needed to use it.

    Nothing vouches for the file here: parity reports are the bundle's. What it says of
    itself is believed; `fingerprint` is the one that a service of the same file answers.
    """

    def __init__(
        self,
        runner: OnnxRunner,
        metadata: Metadata,
        limits: ImageLimits,
        fingerprint: str,
    ) -> None:
        self.metadata = metadata
        self.name = runner.name
        # SHA-256 of the file; embeddings compare with those of the same fingerprint.
        self.fingerprint = fingerprint
        self._runner = runner
        self._limits = limits

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        threads: int | None = None,
        limits: ImageLimits = LOCAL_LIMITS,
    ) -> "StandaloneModel":
        """Open an ONNX file that `isogon export` made.

        Args:
            path: the file.
            threads: of ONNX Runtime; None for its own choice.
            limits: the largest image that is decoded.

        Raises:
            UsageError: there is no such file.
            BundleError: it does not load, has other inputs and outputs, or lacks the
                metadata.
        """
        if not path.is_file():
            found = "a directory" if path.is_dir() else "nothing"
            raise UsageError(
                f"Expected an ONNX file at {path}, found {found}. In a bundle it is "
                f"onnx/model.onnx."
            )
        runner = OnnxRunner(path, threads=threads)
        metadata = Metadata.from_properties(runner.metadata, str(path))
        return cls(runner, metadata, limits, sha256_of(path))

    def pixels(self, data: bytes) -> UInt8[np.ndarray, "h w 3"]:
        """Return the pixels the graph takes of an encoded image.

        Raises:
            ImageError: it does not decode, or is too large.
        """
        preprocessing = self.metadata.preprocessing
        return preprocessing.pixels(decode(data, self._limits, samples=preprocessing.range))

    def answer(self, image: Path | bytes) -> Answer:
        """Return what the file says of one image, run alone; bytes have no name.

        Raises:
            ImageError: it does not decode, or is too large.
            UsageError: the file cannot be read.
        """
        name, data = ("", image) if isinstance(image, bytes) else (str(image), _read(image))
        return self._answered([_Seen(name=name, pixels=self.pixels(data))])[0]

    def answers(
        self, images: Sequence[Path], progress: Progress, *, batch_size: int = BATCH
    ) -> Iterator[Answer | Unread]:
        """Yield what the file says of each image, in order, a batch at a time.

        An image that cannot be read is told as such and stops no other.
        """
        task = progress.add_task("Running the model", total=len(images))
        for start in range(0, len(images), batch_size):
            batch = [self._attempted(image) for image in images[start : start + batch_size]]
            seen = [each for each in batch if not isinstance(each, Unread)]
            answered = iter(self._answered(seen))
            for each in batch:
                yield each if isinstance(each, Unread) else next(answered)
            progress.advance(task, len(batch))

    def _attempted(self, image: Path) -> _Seen | Unread:
        try:
            data = _read(image)
        except UsageError as error:
            return Unread(name=str(image), reason=str(error).removeprefix(f"{image} "))
        try:
            return _Seen(name=str(image), pixels=self.pixels(data))
        except ImageError as error:
            return Unread(name=str(image), reason=str(error))

    def _answered(self, seen: Sequence[_Seen]) -> list[Answer]:
        if not seen:
            return []
        outputs = self._runner.run(np.stack([each.pixels for each in seen]))
        p_values = self.metadata.calibration.p_values(outputs.ood_scores)
        flagged = self.metadata.calibration.is_ood(outputs.ood_scores)
        return [
            Answer(
                name=each.name,
                embedding=outputs.embeddings[row],
                ood_score=float(outputs.ood_scores[row]),
                p_value=float(p_values[row]),
                is_ood=bool(flagged[row]),
            )
            for row, each in enumerate(seen)
        ]


def require_savable(path: Path) -> None:
    """Raise `UsageError` if answers cannot be saved at `path`."""
    if path.is_dir():
        raise UsageError(f"{path} is a directory; expected --output as a file's name.")
    if path.suffix != ".npz":
        raise UsageError(
            f"Answers are saved as a NumPy archive; expected --output to end in .npz, got "
            f"{path}."
        )
    if not path.parent.is_dir():
        raise UsageError(f"{path} cannot be written: there is no folder {path.parent}.")


def save_answers(path: Path, answers: Sequence[Answer], fingerprint: str) -> None:
    """Write answers as a NumPy archive; it appears whole, or not at all.

    It holds `names` [n], `embeddings` float32 [n, d], `ood_scores` [n], `p_values` [n],
    `is_ood` [n] and `fingerprint`, without pickled objects.

    Raises:
        UsageError: there are no answers to write, or `path` cannot be written.
    """
    if not answers:
        raise UsageError(f"No image could be read, so {path} was not written.")
    require_savable(path)
    pending = path.with_name(f".{path.name}.pending")
    try:
        with pending.open("wb") as file:
            np.savez(
                file,
                names=np.array([answer.name for answer in answers]),
                embeddings=np.stack([answer.embedding for answer in answers]),
                ood_scores=np.array([answer.ood_score for answer in answers]),
                p_values=np.array([answer.p_value for answer in answers]),
                is_ood=np.array([answer.is_ood for answer in answers]),
                fingerprint=np.array(fingerprint),
            )
        pending.replace(path)
    except OSError as error:
        pending.unlink(missing_ok=True)
        raise UsageError(
            f"{path} cannot be written: {error.strerror}. Choose another --output."
        ) from error


def _read(image: Path) -> bytes:
    try:
        return image.read_bytes()
    except OSError as error:
        raise UsageError(f"{image} cannot be read: {error.strerror}.") from error

"""A model to embed images with: a bundle's artifact, or an ONNX file alone. No torch."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from PIL.Image import Image as PillowImage, fromarray

from isogon.bundle import (
    ONNX,
    Bundle,
    Manifest,
    Metadata,
    proven_artifact,
    sha256_of,
)
from isogon.errors import ImageError, UsageError, option
from isogon.images import ImageLimits, Preprocessing, decode
from isogon.images.collection import LOCAL_LIMITS
from isogon.images.in_memory import file_of, saved, storable, without_loss
from isogon.ood import Calibration
from isogon.progress import Progress
from isogon.runtimes import How, Outputs, Runner, runtime_for

BATCH = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The model's answer for one image."""

    name: str
    embedding: Float32[np.ndarray, " d"]  # unit norm
    ood_score: float  # larger = less familiar
    p_value: float
    is_ood: bool  # p_value <= the calibration's alpha

    def document(self) -> dict[str, object]:
        """Return it as a JSON document, with the keys of the service's answers."""
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
    reason: str  # continues the name: "is empty. Send …"

    def document(self) -> dict[str, object]:
        """Return it as a JSON document."""
        return {"name": self.name, "error": self.reason}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Seen:
    """An image that was read, with its pixels."""

    name: str
    pixels: UInt8[np.ndarray, "h w 3"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """The model's answers for n images, in order."""

    embeddings: Float32[np.ndarray, "n d"]  # unit norm
    scores: Float32[np.ndarray, " n"]  # larger = less familiar, out of distribution
    p_values: Float[np.ndarray, " n"]
    is_ood: Bool[np.ndarray, " n"]  # p_value <= the calibration's alpha

    @classmethod
    def of(cls, outputs: Outputs, calibration: Calibration) -> "Answers":
        """Return a graph's outputs with the p-value and the decision for each image."""
        return cls(
            embeddings=outputs.embeddings,
            scores=outputs.ood_scores,
            p_values=calibration.p_values(outputs.ood_scores),
            is_ood=calibration.is_ood(outputs.ood_scores),
        )

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        """Return how many images, how wide, and how many are flagged, for a notebook."""
        return (
            f"Answers({len(self)} images, embeddings {self.embeddings.shape[1]} wide, "
            f"{int(self.is_ood.sum())} out of distribution)"
        )


class Model:
    """Computes embeddings, and flags images that are out of distribution.

    `isogon.load` opens one.
    """

    def __init__(
        self,
        runner: Runner,
        preprocessing: Preprocessing,
        calibration: Calibration,
        limits: ImageLimits,
        fingerprint: str,
        manifest: Manifest | None = None,
    ) -> None:
        self.name = runner.name
        self.manifest = manifest  # of the bundle; None: a file alone
        self.on_device = runner.on_device  # whether it runs on an accelerator
        self.preprocessing = preprocessing
        self.calibration = calibration
        # SHA-256 of the file; only embeddings of the same fingerprint are comparable.
        self.fingerprint = fingerprint
        self._runner = runner
        self._limits = limits

    def __repr__(self) -> str:
        """Return what runs, and on which pixels, for a notebook."""
        crop = self.preprocessing
        return (
            f"Model({self.fingerprint[:12]}… on {self.name}, {crop.height} x {crop.width} "
            f"pixels)"
        )

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        artifact: str | None = None,
        runtime: str | None = None,
        threads: int | None = None,
        limits: ImageLimits = LOCAL_LIMITS,
    ) -> "Model":
        """Open a bundle's artifact, or an ONNX file alone; see `isogon.load`."""
        path = Path(path)
        if path.is_dir():
            artifact = artifact or ONNX
            if runtime is not None:
                raise UsageError(
                    f"A runtime is chosen for a file alone; {path} is a bundle. Name it "
                    f"with the artifact: {artifact}@{runtime}."
                )
            bundle = Bundle.open(path)
            vouched, runner = proven_artifact(bundle, artifact, How(threads=threads))
            return cls(
                runner,
                bundle.manifest.preprocessing,
                vouched.calibration,
                limits,
                vouched.fingerprint,
                bundle.manifest,
            )
        if not path.is_file():
            raise UsageError(
                f"Expected a bundle's directory or an ONNX file at {path}, found nothing. "
                f"In a bundle the file is {ONNX}."
            )
        if artifact is not None:
            raise UsageError(
                f"An artifact is chosen in a bundle; {path} is a file alone. Leave "
                f"artifact={artifact!r} out, or open the bundle."
            )
        runner = runtime_for(Path(ONNX), runtime).open(path, How(threads=threads))
        metadata = Metadata.from_properties(runner.metadata, str(path))
        return cls(
            runner,
            metadata.preprocessing,
            metadata.calibration,
            limits,
            sha256_of(path),
        )

    def embed(
        self,
        images: Iterable[str | Path | bytes | PillowImage | np.ndarray],
        *,
        batch_size: int = BATCH,
    ) -> Answers:
        """Return embeddings, scores and decisions for images.

        A file (path or bytes), and an image that Pillow has just opened, is turned upright
        by its metadata, as in the service. An image made in memory is used as it is.

        Args:
            images: paths, encoded bytes, images of Pillow's in any mode, or uint8 arrays
                [h, w], [h, w, 3] (RGB) or [h, w, 4] (RGBA); or one array [n, h, w, 3].
            batch_size: images per run, and the most that are decoded at a time.

        Raises:
            ImageError: one does not decode, or is too large; the message begins with
                its path, or `images[index]`.
            UsageError: one is of another type, shape or dtype, cannot be read, or is an
                address on the web.

        Example:
            >>> answers = isogon.load("photos.isogon").embed(["a.jpg", "b.jpg"])
            >>> answers.embeddings @ answers.embeddings.T  # cosines
        """
        several = isinstance(images, np.ndarray) and images.ndim == 4
        if not several and isinstance(
            images, str | Path | bytes | PillowImage | np.ndarray
        ):
            raise UsageError(
                f"Expected a list of images, got one {type(images).__name__}. Put it in a "
                f"list: `embed([image])`."
            )
        if not isinstance(images, Iterable):
            raise UsageError(
                f"Expected a list of images, got a {type(images).__name__}: {images!r}."
            )
        if not (isinstance(batch_size, int) and batch_size >= 1):
            raise UsageError(f"Expected batch_size of at least 1, got {batch_size!r}.")
        numbered = enumerate(images)
        parts = []
        while batch := list(islice(numbered, batch_size)):
            pixels = np.stack([self._pixels_of(image, index) for index, image in batch])
            parts.append(self.of_pixels(pixels))
        if not parts:
            raise UsageError("Expected at least one image, got an empty list.")
        return Answers(
            embeddings=np.concatenate([part.embeddings for part in parts]),
            scores=np.concatenate([part.scores for part in parts]),
            p_values=np.concatenate([part.p_values for part in parts]),
            is_ood=np.concatenate([part.is_ood for part in parts]),
        )

    def pixels(self, data: bytes) -> UInt8[np.ndarray, "h w 3"]:
        """Return the pixels of an encoded image, as the graph takes them.

        Raises:
            ImageError: it does not decode, or is too large.
        """
        crop = self.preprocessing
        return crop.pixels(decode(data, self._limits, samples=crop.range))

    def answer(self, image: Path | bytes) -> Answer:
        """Return the answer for one image, run alone; bytes have an empty name.

        Raises:
            ImageError: it does not decode, or is too large.
            UsageError: the file cannot be read.
        """
        name, data = ("", image) if isinstance(image, bytes) else (str(image), _read(image))
        return self._answered([_Seen(name=name, pixels=self.pixels(data))])[0]

    def answers(
        self, images: Sequence[Path], progress: Progress, *, batch_size: int = BATCH
    ) -> Iterator[Answer | Unread]:
        """Yield the answer for each image, in order, a batch at a time.

        An unreadable image is yielded as `Unread`.
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
        found = self.of_pixels(np.stack([each.pixels for each in seen]))
        return [
            Answer(
                name=each.name,
                embedding=found.embeddings[row],
                ood_score=float(found.scores[row]),
                p_value=float(found.p_values[row]),
                is_ood=bool(found.is_ood[row]),
            )
            for row, each in enumerate(seen)
        ]

    def of_pixels(self, pixels: UInt8[np.ndarray, "b h w 3"]) -> Answers:
        """Return the answers for preprocessed images, as one batch."""
        return Answers.of(self._runner.run(pixels), self.calibration)

    def _pixels_of(
        self, image: str | Path | bytes | PillowImage | np.ndarray, index: int
    ) -> UInt8[np.ndarray, "h w 3"]:
        name = str(image) if isinstance(image, str | Path) else f"images[{index}]"
        if "://" in name:
            raise UsageError(
                f"{name} is an address, and Isogon downloads no image. Download it, and "
                f"give its path or its bytes."
            )
        if isinstance(image, str | Path):
            data = _read(Path(image))
        elif isinstance(image, bytes):
            data = image
        elif isinstance(image, PillowImage):
            data = _as_file(image)
        elif isinstance(image, np.ndarray):
            data = _as_file(_of_array(image, name))
        else:
            raise UsageError(
                f"{name} is a {type(image).__name__}; expected a path, bytes, an image of "
                f"Pillow's or a uint8 array."
            )
        try:
            return self.pixels(data)
        except ImageError as error:
            raise ImageError(error.problem, f"{name} {error}") from error


def require_savable(path: Path) -> None:
    """Raise `UsageError` if answers cannot be saved at `path`."""
    if path.is_dir():
        raise UsageError(
            f"{path} is a directory; expected {option('output')} as a file's name."
        )
    if path.suffix != ".npz":
        raise UsageError(
            f"Answers are saved as a NumPy archive; expected {option('output')} to "
            f"end in .npz, got {path}."
        )
    if not path.parent.is_dir():
        raise UsageError(f"{path} cannot be written: there is no folder {path.parent}.")


def save_answers(path: Path, answers: Sequence[Answer], fingerprint: str) -> None:
    """Write answers as a NumPy archive, which appears complete or not at all.

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
            f"{path} cannot be written: {error.strerror}. Choose another "
            f"{option('output')}."
        ) from error


def _as_file(image: PillowImage) -> bytes:
    """Return the pixels as a file without loss, for the decoder."""
    opened = file_of(image)
    if opened is not None:
        return opened
    image = storable(image)
    if without_loss(image) == "TIFF":
        return saved(image, "TIFF")
    return saved(image, "PNG", compress_level=0)


def _of_array(array: np.ndarray, name: str) -> PillowImage:
    shaped = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not shaped or 0 in array.shape:
        raise UsageError(
            f"{name} is an array of {array.dtype}, {list(array.shape)}; expected uint8, "
            f"[h, w], [h, w, 3] (RGB) or [h, w, 4] (RGBA)."
        )
    return fromarray(array)


def _read(image: Path) -> bytes:
    try:
        return image.read_bytes()
    except IsADirectoryError as error:
        raise UsageError(
            f"{image} is a folder, not an image. Name the images in it; `isogon embed` "
            f"takes a whole folder."
        ) from error
    except OSError as error:
        raise UsageError(f"{image} cannot be read: {error.strerror}.") from error

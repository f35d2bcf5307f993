"""The saved outputs of a candidate and the reference, which can be judged again.

Running and judging are separate. A run keeps all outputs in one safetensors file;
`ParityRun.judge` compares them with bounds, now or later, without a runner.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy
from jaxtyping import Bool
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open

from isogon.errors import BundleError
from isogon.ood.calibration import Calibration
from isogon.parity.figures import Figures, Stability, figures, largest_change, score_errors
from isogon.parity.report import ParityReport
from isogon.parity.tolerance import TOLERANCES, ParityRecord, Tolerance
from isogon.runtimes import Outputs
from isogon.runtimes.runner import Precision

_KEY = "isogon.parity"  # in the header's metadata
_EXPECTED, _AGAIN, _REPEATED, _BATCH = "expected", "again", "repeated", "batch."


class Claim(ParityRecord):
    """The claim that a file computes the same as a reference."""

    artifact: str  # its name in the bundle
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    tensors: str | None = None  # SHA-256 of the separate file of weights, over 2 GB
    # SHA-256 of the function it should compute.
    function: str = Field(pattern="^[0-9a-f]{64}$")
    precision: Precision
    reference: str  # its runtime and device


class _Header(ParityRecord):
    claim: Claim
    candidate: str
    familiar: int = Field(ge=0)
    alpha: float = Field(gt=0, lt=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class ParityRun:
    """All outputs of the reference and of a candidate for the same images."""

    claim: Claim
    candidate: str  # the artifact's runtime and device
    familiar: int  # this number of images, the first ones, are familiar and calibrate
    alpha: float  # the false-alarm rate of the decisions
    expected: Outputs  # of the reference
    answers: Mapping[int, Outputs]  # of the candidate, by batch size, ascending
    again: Outputs  # of the candidate in a second run, at the largest batch size
    repeated: Outputs  # for the first image, in every position of the largest batch

    @property
    def calibration(self) -> Calibration | None:
        """The calibration from the candidate's own scores at the smallest batch size.

        None if they are not finite.

        Raises:
            UsageError: there are too few familiar images for alpha.
        """
        return self._calibration(self.answers[min(self.answers)])

    def judge(self, tolerance: Tolerance | None = None) -> ParityReport:
        """Return the report for these bounds; None: the defaults of the precision.

        Raises:
            UsageError: there are too few familiar images for alpha.
        """
        expected_is_ood = self._decisions(self.expected)
        worst = Figures.none()
        for outputs in self.answers.values():
            found = figures(
                self.expected,
                outputs,
                reference_is_ood=expected_is_ood,
                candidate_is_ood=self._decisions(outputs),
            )
            worst = worst.worst(found)
        error = float(np.maximum(worst.max_score_error, self._unsteady()))
        return ParityReport(
            **self.claim.model_dump(),
            candidate=self.candidate,
            batch_sizes=tuple(self.answers),
            figures=worst.model_copy(update={"max_score_error": error}),
            stability=self._stability(),
            tolerance=tolerance or TOLERANCES[self.claim.precision],
            calibration=self.calibration,
        )

    def save(self, path: Path) -> None:
        """Write everything to a safetensors file; see `isogon/bundle/README.md`."""
        header = _Header(
            claim=self.claim,
            candidate=self.candidate,
            familiar=self.familiar,
            alpha=self.alpha,
        )
        named = {
            _EXPECTED: self.expected,
            _AGAIN: self.again,
            _REPEATED: self.repeated,
            **{f"{_BATCH}{size}": outputs for size, outputs in self.answers.items()},
        }
        arrays = {}
        for name, outputs in named.items():
            arrays[f"{name}.embeddings"] = np.ascontiguousarray(outputs.embeddings)
            arrays[f"{name}.ood_scores"] = np.ascontiguousarray(outputs.ood_scores)
        metadata = {_KEY: header.model_dump_json()}
        # `save_file` makes a file that only its owner may read.
        path.write_bytes(safetensors.numpy.save(arrays, metadata=metadata))

    @classmethod
    def load(cls, path: Path) -> "ParityRun":
        """Return the run that `save` wrote.

        Raises:
            BundleError: the file is missing, or is not a complete parity run.
        """
        if not path.is_file():
            raise _unreadable(
                path, "it is a directory" if path.is_dir() else "there is nothing"
            )
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                arrays = {name: file.get_tensor(name) for name in file.keys()}
        except (OSError, SafetensorError, TypeError) as error:  # such as bfloat16
            raise _unreadable(path, str(error)) from error
        try:
            header = _Header.model_validate_json(metadata.get(_KEY, ""))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join([_KEY, *map(str, first["loc"])])
            raise _unreadable(path, f"`{where}` of its header: {first['msg']}") from error
        outputs = _outputs_by_name(path, arrays)
        answers = {
            int(name.removeprefix(_BATCH)): outputs[name]
            for name in outputs
            if name.startswith(_BATCH) and name.removeprefix(_BATCH).isdecimal()
        }
        missing = {_EXPECTED, _AGAIN, _REPEATED} - set(outputs)
        if missing or not answers:
            absent = ", ".join(sorted(missing)) or f"{_BATCH}<size>"
            raise _unreadable(path, f"it has no {absent}")
        run = cls(
            claim=header.claim,
            candidate=header.candidate,
            familiar=header.familiar,
            alpha=header.alpha,
            expected=outputs[_EXPECTED],
            answers=dict(sorted(answers.items())),
            again=outputs[_AGAIN],
            repeated=outputs[_REPEATED],
        )
        run._require_whole(path)
        return run

    def _require_whole(self, path: Path) -> None:
        """Raise `BundleError` unless all outputs are for the same images."""
        images = len(self.expected)
        wanted = {name: images for name in ("again", *map(str, self.answers))}
        found = {str(size): len(outputs) for size, outputs in self.answers.items()}
        found["again"] = len(self.again)
        wanted["repeated"], found["repeated"] = max(self.answers), len(self.repeated)
        if found != wanted or self.familiar > images or min(self.answers) < 1:
            raise _unreadable(
                path,
                f"every part should have the same {images} images, {self.familiar} of them "
                f"familiar; it has {found}",
            )
        widths = {
            outputs.embeddings.shape[1]
            for outputs in (
                *self.answers.values(),
                self.expected,
                self.again,
                self.repeated,
            )
        }
        if len(widths) > 1:
            raise _unreadable(path, f"its embeddings are {sorted(widths)} wide")

    def _stability(self) -> Stability:
        smallest, *others = (self.answers[size].embeddings for size in sorted(self.answers))
        largest = self.answers[max(self.answers)].embeddings
        changes = [largest_change(smallest, other) for other in others]
        changes.append(largest_change(smallest[:1], self.repeated.embeddings))
        return Stability(
            batch_invariance=float(np.max(changes)),
            determinism=largest_change(largest, self.again.embeddings),
        )

    def _unsteady(self) -> float:
        """Return the largest error of a score in a second run, or at another position."""
        expected = self.expected.ood_scores
        if not len(expected):
            return 0.0
        again = score_errors(expected, self.again.ood_scores, among=expected)
        repeated = score_errors(expected[:1], self.repeated.ood_scores, among=expected)
        return float(np.concatenate([again, repeated]).max())

    def _calibration(self, outputs: Outputs) -> Calibration | None:
        scores = outputs.ood_scores[: self.familiar]
        if not np.isfinite(scores).all():
            return None
        return Calibration.from_scores(scores, self.alpha)

    def _decisions(self, outputs: Outputs) -> Bool[np.ndarray, " b"]:
        calibration = self._calibration(outputs)
        if calibration is None:
            return np.ones(len(outputs), dtype=bool)
        return calibration.is_ood(outputs.ood_scores)


def _outputs_by_name(path: Path, arrays: Mapping[str, np.ndarray]) -> dict[str, Outputs]:
    """Return the arrays in pairs, with dtype, axes and lengths checked."""
    outputs = {}
    for name in sorted({key.rpartition(".")[0] for key in arrays}):
        embeddings = arrays.get(f"{name}.embeddings")
        scores = arrays.get(f"{name}.ood_scores")
        if embeddings is None or scores is None:
            raise _unreadable(path, f"{name} should have embeddings and ood_scores")
        if (
            embeddings.dtype != np.float32
            or scores.dtype != np.float32
            or embeddings.ndim != 2
            or scores.shape != embeddings.shape[:1]
        ):
            raise _unreadable(
                path,
                f"{name} should be float32 [n, d] and float32 [n], it is "
                f"{embeddings.dtype} {list(embeddings.shape)} and "
                f"{scores.dtype} {list(scores.shape)}",
            )
        outputs[name] = Outputs(embeddings=embeddings, ood_scores=scores)
    return outputs


def _unreadable(path: Path, reason: str) -> BundleError:
    return BundleError(
        f"Expected a saved parity run at {path}, as `isogon export` writes it beside a "
        f"report in parity/: {reason}. Export the bundle again to make it."
    )

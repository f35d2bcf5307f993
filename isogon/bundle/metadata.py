"""The metadata of an ONNX file, with which it can be used without its bundle."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import ValidationError

from isogon.bundle.detector_in_force import Reduction
from isogon.bundle.manifest import Manifest
from isogon.errors import BundleError
from isogon.images.preprocessing import Preprocessing
from isogon.ood.calibration import Calibration
from isogon.runtimes import CALIBRATION_KEY, FUNCTION_KEY, PREPROCESSING_KEY

# The name of `FUNCTION_KEY` in older files. Today a fingerprint is the SHA-256 of a file.
_FUNCTION_KEY_ONCE = "isogon.fingerprint"
_KEYS = (PREPROCESSING_KEY, CALIBRATION_KEY, FUNCTION_KEY)


@dataclass(frozen=True, kw_only=True, slots=True)
class Metadata:
    """The metadata properties with which an ONNX file can be used alone."""

    preprocessing: Preprocessing
    calibration: Calibration
    function: str  # SHA-256 of the deployed function; see `function_digest`

    def properties(self) -> dict[str, str]:
        """Return them as metadata properties of an ONNX file."""
        return {
            PREPROCESSING_KEY: self.preprocessing.model_dump_json(),
            CALIBRATION_KEY: self.calibration.model_dump_json(),
            FUNCTION_KEY: self.function,
        }

    @classmethod
    def from_properties(cls, properties: Mapping[str, str], where: str) -> "Metadata":
        """Read them from metadata properties.

        Args:
            properties: the metadata of an ONNX file.
            where: its path, for messages.

        Raises:
            BundleError: a property is missing or invalid.
        """
        properties = _as_now(properties)
        missing = [key for key in _KEYS if key not in properties]
        if missing:
            held = ", ".join(sorted(properties)) or "no metadata"
            raise BundleError(
                f"{where} cannot be used alone: expected the metadata "
                f"{', '.join(_KEYS)}, found {held}. Use a file that `isogon export` of "
                f"this version has made."
            )
        try:
            return cls(
                preprocessing=Preprocessing.model_validate_json(
                    properties[PREPROCESSING_KEY]
                ),
                calibration=Calibration.model_validate_json(properties[CALIBRATION_KEY]),
                function=properties[FUNCTION_KEY],
            )
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"]) or error.title
            raise BundleError(
                f"{where} cannot be used alone: its {error.title.lower()} is not valid in "
                f"this version: `{key}`: {first['msg']}. Export it again with "
                f"`isogon export`."
            ) from error


def function_digest(
    manifest: Manifest, *, detector: str, statistics: str, reduction: Reduction | None
) -> str:
    """Return the SHA-256 of the deployed function, which is the same in any precision.

    Two artifacts of the same function compute the same embeddings and scores, up to
    rounding. The exact file is identified by its fingerprint, the file's own SHA-256.

    Args:
        manifest: of the bundle: the student's weights, its architecture, preprocessing.
        detector: SHA-256 of the `detector.json` in force.
        statistics: SHA-256 of the `reference.safetensors` in the same folder.
        reduction: of the detector's bank, if there is one.
    """
    document = {
        "architecture": manifest.student.architecture,
        "weights": manifest.files["model.safetensors"].sha256,
        "detector": detector,
        "statistics": statistics,
        "reduction": None if reduction is None else reduction.function(),
        "preprocessing": manifest.preprocessing.model_dump(mode="json"),
    }
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _as_now(properties: Mapping[str, str]) -> Mapping[str, str]:
    """Return the properties of an older file under today's names."""
    if FUNCTION_KEY not in properties and _FUNCTION_KEY_ONCE in properties:
        return {**properties, FUNCTION_KEY: properties[_FUNCTION_KEY_ONCE]}
    return properties

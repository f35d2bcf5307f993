"""The bundle: the directory that distil, export and serving share. No torch.

`README.md` beside this file specifies the format and its seven rules.
"""

from isogon.bundle.artifact import (
    GOLDEN as GOLDEN,
    ONNX as ONNX,
    Artifact as Artifact,
    artifact_names as artifact_names,
    file_of as file_of,
    golden_arrays as golden_arrays,
    in_other_runtimes as in_other_runtimes,
    onnx_name as onnx_name,
    open_runner as open_runner,
    parity_name as parity_name,
    parity_reports as parity_reports,
    parity_run_name as parity_run_name,
    proven_runner as proven_runner,
    require_golden as require_golden,
    runtime_of as runtime_of,
    tensors_name as tensors_name,
    vouched_artifact as vouched_artifact,
)
from isogon.bundle.bundle import (
    Bundle as Bundle,
    require_absent as require_absent,
)
from isogon.bundle.detector_in_force import (
    FITTED as FITTED,
    HELD_OUT as HELD_OUT,
    REDUCED as REDUCED,
    REDUCTION as REDUCTION,
    SITE_DETECTOR as SITE_DETECTOR,
    TRAINING_DETECTOR as TRAINING_DETECTOR,
    DetectorInForce as DetectorInForce,
    FittedOn as FittedOn,
    Reduction as Reduction,
    detector_in_force as detector_in_force,
    detector_spec as detector_spec,
    held_out_for as held_out_for,
    reduced_detector as reduced_detector,
    reduction_in_force as reduction_in_force,
)
from isogon.bundle.evaluation import (
    Baseline as Baseline,
    Bootstrap as Bootstrap,
    ClassAccuracy as ClassAccuracy,
    Copies as Copies,
    Corruptions as Corruptions,
    Cost as Cost,
    Estimate as Estimate,
    Evaluation as Evaluation,
    Fidelity as Fidelity,
    OodFigures as OodFigures,
    Quality as Quality,
    Training as Training,
    UnfamiliarSet as UnfamiliarSet,
)
from isogon.bundle.false_alarms import (
    FALSE_ALARMS as FALSE_ALARMS,
    FalseAlarms as FalseAlarms,
    ServedDetector as ServedDetector,
    expected_rate as expected_rate,
    measured_false_alarms as measured_false_alarms,
    served_detector as served_detector,
)
from isogon.bundle.fastest import (
    FASTEST as FASTEST,
    Race as Race,
    Timed as Timed,
    proven_artifact as proven_artifact,
    race as race,
)
from isogon.bundle.manifest import (
    MANIFEST as MANIFEST,
    SCHEMA_VERSION as SCHEMA_VERSION,
    FileEntry as FileEntry,
    Manifest as Manifest,
    Provenance as Provenance,
    StudentCard as StudentCard,
    TeacherCard as TeacherCard,
)
from isogon.bundle.metadata import (
    Metadata as Metadata,
    function_digest as function_digest,
)
from isogon.bundle.names import (
    has_timm_source as has_timm_source,
    is_import_path as is_import_path,
)
from isogon.bundle.stage_writer import (
    StageWriter as StageWriter,
    sha256_of as sha256_of,
)
from isogon.bundle.thumbnails import (
    THUMBNAILS as THUMBNAILS,
    Thumbnails as Thumbnails,
)
from isogon.bundle.worth import (
    Gain as Gain,
    Worth as Worth,
)

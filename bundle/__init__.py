"""The bundle: the one directory in which distil, export and serving meet. No torch.

`README.md` beside this file specifies the format and its seven rules.
"""

from bundle.artifact import (
    GOLDEN as GOLDEN,
    ONNX as ONNX,
    Artifact as Artifact,
    artifact_names as artifact_names,
    golden_arrays as golden_arrays,
    onnx_name as onnx_name,
    open_runner as open_runner,
    parity_name as parity_name,
    parity_reports as parity_reports,
    parity_run_name as parity_run_name,
    proven_runner as proven_runner,
    require_golden as require_golden,
    tensors_name as tensors_name,
    vouched_artifact as vouched_artifact,
)
from bundle.calibration import (
    Calibration as Calibration,
    scores_needed as scores_needed,
)
from bundle.classes import ClassChoice as ClassChoice
from bundle.collection import Images as Images
from bundle.cuda import CudaDevice as CudaDevice, cuda_device as cuda_device
from bundle.detectors import (
    Detector as Detector,
    DetectorName as DetectorName,
    DetectorSpec as DetectorSpec,
    LinearProbe as LinearProbe,
    applicable_detectors as applicable_detectors,
)
from bundle.engines import EngineStamp as EngineStamp, Machine as Machine
from bundle.errors import (
    AppendOnlyError as AppendOnlyError,
    BundleError as BundleError,
    CheckFailedError as CheckFailedError,
    DamagedFileError as DamagedFileError,
    EngineMismatchError as EngineMismatchError,
    ForbiddenFileError as ForbiddenFileError,
    ImageError as ImageError,
    ImageProblem as ImageProblem,
    IsogonError as IsogonError,
    ProcessError as ProcessError,
    SchemaVersionError as SchemaVersionError,
    UnvouchedArtifactError as UnvouchedArtifactError,
    UsageError as UsageError,
)
from bundle.evaluation import (
    Baseline as Baseline,
    Bootstrap as Bootstrap,
    ClassAccuracy as ClassAccuracy,
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
from bundle.false_alarms import (
    FALSE_ALARMS as FALSE_ALARMS,
    FalseAlarms as FalseAlarms,
    ServedDetector as ServedDetector,
    expected_rate as expected_rate,
    measured_false_alarms as measured_false_alarms,
    served_detector as served_detector,
)
from bundle.fitted import (
    FITTED as FITTED,
    HELD_OUT as HELD_OUT,
    SITE_DETECTOR as SITE_DETECTOR,
    TRAINING_DETECTOR as TRAINING_DETECTOR,
    DetectorInForce as DetectorInForce,
    FittedOn as FittedOn,
    detector_in_force as detector_in_force,
    detector_spec as detector_spec,
    held_out_for as held_out_for,
)
from bundle.flavours import Flavour as Flavour
from bundle.folder import ImageFolder as ImageFolder
from bundle.images import (
    ACCEPTED as ACCEPTED,
    FORMATS as FORMATS,
    SUFFIXES as SUFFIXES,
    ImageLimits as ImageLimits,
    decode as decode,
    image_format as image_format,
)
from bundle.manifest import (
    MANIFEST as MANIFEST,
    SCHEMA_VERSION as SCHEMA_VERSION,
    FileEntry as FileEntry,
    Manifest as Manifest,
    Provenance as Provenance,
    StudentCard as StudentCard,
    TeacherCard as TeacherCard,
)
from bundle.metadata import (
    Metadata as Metadata,
    function_digest as function_digest,
)
from bundle.names import (
    has_timm_source as has_timm_source,
    is_import_path as is_import_path,
)
from bundle.page import REPORT as REPORT, with_parity as with_parity
from bundle.parity import (
    TOLERANCES as TOLERANCES,
    Check as Check,
    Claim as Claim,
    Figures as Figures,
    ParityReport as ParityReport,
    ParityRun as ParityRun,
    Stability as Stability,
    Tolerance as Tolerance,
    figures as figures,
)
from bundle.precision import Precision as Precision
from bundle.preprocessing import (
    Preprocessing as Preprocessing,
    SampleRange as SampleRange,
)
from bundle.profile import BatchProfile as BatchProfile
from bundle.reduction import (
    REDUCED as REDUCED,
    REDUCTION as REDUCTION,
    Reduction as Reduction,
    reduced_detector as reduced_detector,
    reduction_in_force as reduction_in_force,
)
from bundle.runners import (
    OnnxRunner as OnnxRunner,
    Outputs as Outputs,
    Provider as Provider,
    Runner as Runner,
    TensorRTRunner as TensorRTRunner,
)
from bundle.split import (
    Shares as Shares,
    Split as Split,
    split as split,
    split_apart as split_apart,
)
from bundle.stage import StageWriter as StageWriter, sha256_of as sha256_of
from bundle.standalone import (
    Answer as Answer,
    StandaloneModel as StandaloneModel,
    Unread as Unread,
    save_answers as save_answers,
)
from bundle.store import Bundle as Bundle, require_absent as require_absent
from bundle.thumbnails import THUMBNAILS as THUMBNAILS, Thumbnails as Thumbnails
from bundle.worth import (
    Gain as Gain,
    Worth as Worth,
)

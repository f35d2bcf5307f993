"""What leaves a bundle when an export adds to it: artifacts that no longer belong."""

from isogon.bundle import (
    ONNX,
    Bundle,
    StageWriter,
    artifact_names,
    file_of,
    parity_name,
    parity_run_name,
    tensors_name,
)
from isogon.errors import BundleError
from isogon.parity import ParityReport


def withdraw_others(bundle: Bundle, stage: StageWriter, function: str) -> tuple[str, ...]:
    """Withdraw the artifacts of another function, and damaged ones; return their names.

    An engine that nothing vouches for yet was made beside the float32 file, and stays
    or goes with it.
    """
    computes_it = is_whole(bundle, ONNX) and _computes(bundle, ONNX, function)
    others = tuple(
        name
        for name in artifact_names(bundle)
        if not is_whole(bundle, name)
        or not (
            _computes(bundle, name, function)
            if parity_name(name) in bundle
            else computes_it and name.endswith(".engine")
        )
    )
    for name in others:
        for file in files_of(bundle, name):
            stage.withdraw(file)
    return others


def files_of(bundle: Bundle, artifact: str) -> tuple[str, ...]:
    """Return the names of an artifact and of what belongs to it in the bundle.

    In another runtime than the file's usual one, those are only what vouches for it.
    """
    reports = (parity_name(artifact), parity_run_name(artifact))
    own = (artifact, tensors_name(artifact)) if artifact == file_of(artifact) else ()
    files = (*own, *reports)
    return tuple(file for file in files if file in bundle)


def is_whole(bundle: Bundle, artifact: str) -> bool:
    """Whether an artifact is there undamaged: before an export nobody has looked."""
    files = {*files_of(bundle, artifact), *files_of(bundle, file_of(artifact))}
    return file_of(artifact) in bundle and not any(map(bundle.fault, files))


def _computes(bundle: Bundle, artifact: str, function: str) -> bool:
    """Whether an artifact's report says that it computes this function."""
    try:
        report = bundle.record(parity_name(artifact), ParityReport)
    except BundleError:  # no report, or one of an earlier version
        return False
    return report.function == function

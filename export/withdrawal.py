"""Artifacts that an export withdraws from the bundle, and those that it rejects."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

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
from isogon.parity import ParityReport, ParityRun
from isogon.runtimes import EngineStamp


def withdraw_others(bundle: Bundle, stage: StageWriter, function: str) -> tuple[str, ...]:
    """Withdraw the artifacts of another function, and damaged ones; return their names.

    An engine without a report was made together with the float32 file, so it stays or
    leaves with that file.
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
    """Return an artifact's files in the bundle: itself, its tensors, its parity files.

    In another runtime than the file's usual one: only its parity files.
    """
    reports = (parity_name(artifact), parity_run_name(artifact))
    own = (artifact, tensors_name(artifact)) if artifact == file_of(artifact) else ()
    files = (*own, *reports)
    return tuple(file for file in files if file in bundle)


def is_whole(bundle: Bundle, artifact: str) -> bool:
    """Whether an artifact is in the bundle undamaged; opening for export does not check."""
    files = {*files_of(bundle, artifact), *files_of(bundle, file_of(artifact))}
    return file_of(artifact) in bundle and not any(map(bundle.fault, files))


def _computes(bundle: Bundle, artifact: str, function: str) -> bool:
    """Whether an artifact's report says that it computes this function."""
    try:
        report = bundle.record(parity_name(artifact), ParityReport)
    except BundleError:  # no report, or one of an earlier version
        return False
    return report.function == function


@dataclass(frozen=True, kw_only=True, slots=True)
class RejectedArtifact:
    """An artifact that failed, and where its file and its parity run are."""

    bundle: Path
    report: ParityReport
    file: Path
    older: bool  # whether the bundle has an older one of this name, still in use

    @property
    def advice(self) -> str:
        """What to do next, as commands."""
        bundle, file = quote(str(self.bundle)), quote(str(self.file))
        run = quote(f"{self.file}.safetensors")
        diverge = (
            f"`isogon verify {bundle} --diverge {file}` names the first layer that "
            f"differs; "
        )
        if self.file.suffix == ".engine":  # an engine shows no tensors
            diverge = ""
        older = ""
        if self.older:
            older = f"The {self.report.artifact} exported before stays in the bundle. "
        return (
            f"It did not enter the bundle and is kept as {self.file}. {older}{diverge}"
            f"`isogon verify --judge {run} --bound NAME=VALUE` judges the same run by "
            f"other bounds, and `isogon export {bundle}{self._options} --bound NAME=VALUE` "
            f"exports with those bounds."
        )

    @property
    def _options(self) -> str:
        """The options that ask for this artifact."""
        precision = self.report.precision
        asked = "" if precision == "fp32" else f" --{precision}"
        if self.file.suffix == ".engine":
            asked += f" --engine {EngineStamp.from_name(self.file.name).package}"
        return asked


def reject(
    bundle: Bundle, file: Path, run: ParityRun, report: ParityReport, *, older: bool
) -> RejectedArtifact:
    """Move a file to the folder of rejected artifacts, with its run and its report."""
    folder = _rejected_folder(bundle)
    folder.mkdir(exist_ok=True)
    name = Path(report.artifact).name
    tensors = file.with_name(tensors_name(file.name))
    if tensors.exists():
        shutil.move(tensors, folder / tensors.name)
    kept = folder / name
    shutil.move(file, kept)  # the bundle may be on its own disk
    run.save(folder / f"{name}.safetensors")
    (folder / f"{name}.json").write_text(report.model_dump_json(indent=2) + "\n")
    return RejectedArtifact(bundle=bundle.path, report=report, file=kept, older=older)


def forget_rejected(bundle: Bundle, artifact: str) -> None:
    """Remove the rejected files of an artifact that has now passed."""
    folder, name = _rejected_folder(bundle), Path(artifact).name
    for suffix in ("", ".data", ".safetensors", ".json"):
        (folder / f"{name}{suffix}").unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _rejected_folder(bundle: Bundle) -> Path:
    """Return the folder beside the bundle where rejected artifacts are kept."""
    path = bundle.path
    if path.name in ("", ".."):  # `.` has no name; beside `..` would be inside it
        path = path.resolve()
    return path.with_name(f"{path.name}.rejected")

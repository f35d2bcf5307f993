"""The seven rules of `isogon/bundle/README.md`: one error and one test per way to break them."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from isogon.bundle import (
    GOLDEN,
    MANIFEST,
    ONNX,
    Bundle,
    open_runner,
    parity_name,
    require_absent,
    require_golden,
    vouched_artifact,
)
from isogon.bundle.manifest import PAGE_START, manifest_from_bytes, manifest_to_bytes
from isogon.errors import (
    AppendOnlyError,
    BundleError,
    CheckFailedError,
    DamagedFileError,
    EngineMismatchError,
    ForbiddenFileError,
    SchemaVersionError,
    UnvouchedArtifactError,
    UsageError,
)
from isogon.parity import ParityReport
from isogon.runtimes import Device, EngineStamp, How, Machine, OnnxRunner


def reseal(path: Path, **changes: object) -> None:
    """Write the manifest again with these fields and a correct checksum."""
    from isogon.bundle.manifest import _canonical, _checksum

    document = json.loads((path / MANIFEST).read_bytes()) | changes
    document.pop("checksum")
    (path / MANIFEST).write_bytes(_canonical({**document, "checksum": _checksum(document)}))


# Rule 1: append-only.


def test_a_stage_cannot_rewrite_another_stages_file(bundle: Bundle) -> None:
    before = bundle.file("model.safetensors").read_bytes()
    with (
        pytest.raises(AppendOnlyError, match=r"model\.safetensors belongs to .*distill"),
        bundle.stage("export") as stage,
    ):
        stage.write("model.safetensors", b"other weights")
    assert Bundle.open(bundle.path).file("model.safetensors").read_bytes() == before


def test_a_stage_may_replace_its_own_file(bundle: Bundle) -> None:
    with bundle.stage("export") as stage:
        stage.write("notes.md", "first")
    with bundle.stage("export") as stage:
        stage.write("notes.md", "second")
    assert Bundle.open(bundle.path).file("notes.md").read_text() == "second"


def test_a_bundle_is_never_overwritten(bundle: Bundle) -> None:
    with (
        pytest.raises(UsageError, match="never overwritten"),
        Bundle.create(bundle.path, bundle.manifest),
    ):
        pass


def test_a_stage_withdraws_its_own_file_with_the_next_publication(bundle: Bundle) -> None:
    assert bundle.file(ONNX).exists()
    with bundle.stage("export") as stage:
        stage.withdraw(ONNX)
        stage.withdraw(parity_name(ONNX))
        assert bundle.file(ONNX).exists()
    again = Bundle.open(bundle.path)
    assert ONNX not in again
    assert not (bundle.path / ONNX).exists()
    with pytest.raises(UnvouchedArtifactError, match="isogon export"):
        vouched_artifact(again)


def test_a_file_withdrawn_and_written_again_is_in_the_bundle(bundle: Bundle) -> None:
    with bundle.stage("export") as stage:
        stage.withdraw(parity_name(ONNX))
        stage.write(parity_name(ONNX), b"{}")
    assert Bundle.open(bundle.path).file(parity_name(ONNX)).read_bytes() == b"{}"


def test_what_a_failing_stage_withdrew_stays(bundle: Bundle) -> None:
    def failing() -> None:
        with bundle.stage("export") as stage:
            stage.withdraw(ONNX)
            raise UsageError("no")

    with pytest.raises(UsageError, match="no"):
        failing()
    vouched_artifact(Bundle.open(bundle.path))


def test_a_stage_cannot_withdraw_another_stages_file(bundle: Bundle) -> None:
    with (
        pytest.raises(AppendOnlyError, match="belongs to the stage `distill`"),
        bundle.stage("export") as stage,
    ):
        stage.withdraw("model.safetensors")


# Rule 2: the manifest comes last and is atomic; damage is named.


def test_one_changed_byte_in_any_file_is_found_and_named(bundle: Bundle) -> None:
    for name in bundle.manifest.files:
        path = bundle.path / name
        content = path.read_bytes()
        for position in {0, len(content) // 2, len(content) - 1}:
            changed = bytearray(content)
            changed[position] ^= 0x01
            path.write_bytes(changed)
            with pytest.raises(DamagedFileError, match=name.replace(".", r"\.")):
                Bundle.open(bundle.path)
        path.write_bytes(content)
    Bundle.open(bundle.path)


@pytest.mark.parametrize("mask", [0x01, 0x20, 0x80])
def test_one_changed_byte_anywhere_in_the_manifest_is_found(
    bundle: Bundle, mask: int
) -> None:
    content = (bundle.path / MANIFEST).read_bytes()
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= mask
        with pytest.raises(BundleError):
            manifest_from_bytes(bytes(changed), where="here")


def test_a_missing_and_a_truncated_file_are_named(bundle_path: Path) -> None:
    weights = bundle_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(DamagedFileError, match=r"model\.safetensors is damaged.*bytes"):
        Bundle.open(bundle_path)
    weights.unlink()
    with pytest.raises(DamagedFileError, match=r"model\.safetensors is missing"):
        Bundle.open(bundle_path)


def test_what_is_not_a_bundle_is_explained(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="found nothing"):
        Bundle.open(tmp_path / "nowhere")
    with pytest.raises(BundleError, match="a directory without manifest"):
        Bundle.open(tmp_path)


def contents(path: Path) -> dict[str, bytes]:
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file.name != ".lock"
    }


def test_a_stage_that_fails_leaves_the_bundle_as_it_was(bundle: Bundle) -> None:
    before = contents(bundle.path)
    with pytest.raises(RuntimeError), bundle.stage("export") as stage:
        stage.write("notes.md", "half")
        raise RuntimeError
    assert contents(bundle.path) == before


def test_two_stages_at_once_are_refused(bundle: Bundle) -> None:
    with bundle.stage("export") as stage:
        stage.write("ours.md", "ours")
        with (
            pytest.raises(BundleError, match="Another process is writing"),
            Bundle.open(bundle.path).stage("export"),
        ):
            pass
    assert "ours.md" in Bundle.open(bundle.path)


def test_a_change_by_another_process_is_not_lost(bundle: Bundle) -> None:
    with Bundle.open(bundle.path).stage("export") as other:
        other.write("theirs.md", "theirs")
    with (
        pytest.raises(BundleError, match="changed by another process"),
        bundle.stage("export") as stage,
    ):
        stage.write("ours.md", "ours")
    assert "theirs.md" in Bundle.open(bundle.path)


def interrupted_while_publishing(bundle: Bundle, name: str, content: str) -> None:
    """Leave the files of a process that dies right after it replaced the manifest."""
    final = bundle.path / name
    old = final.read_bytes()
    with bundle.stage("export") as stage:
        stage.write(name, content)
    final.replace(final.with_name(f".{final.name}.pending"))
    final.write_bytes(old)


@pytest.mark.parametrize("rewriting", [(), ("export",)])
def test_opening_finishes_what_a_killed_stage_promised(
    bundle: Bundle, rewriting: tuple[str, ...]
) -> None:
    with bundle.stage("export") as stage:
        stage.write("notes.md", "first")
    interrupted_while_publishing(bundle, "notes.md", "second")
    found = Bundle.open(bundle.path, rewriting=rewriting)
    assert found.file("notes.md").read_text() == "second"


def test_a_stage_that_rewrites_may_open_what_it_will_mend(bundle: Bundle) -> None:
    bundle.file(ONNX).write_bytes(b"damaged")
    with pytest.raises(DamagedFileError):
        Bundle.open(bundle.path)
    assert Bundle.open(bundle.path, rewriting=["export"])
    bundle.file("model.safetensors").write_bytes(b"damaged")
    with pytest.raises(DamagedFileError, match=r"model\.safetensors"):
        Bundle.open(bundle.path, rewriting=["export"])


_REWRITER = """
import sys
from pathlib import Path
from isogon.bundle import Bundle
bundle = Bundle.open(Path(sys.argv[1]))
print("go", flush=True)
for number in range(10_000):
    with bundle.stage("export") as stage:
        for name in ("a.md", "b.md"):
            stage.write(name, f"{number} " * 1000)
"""


def test_a_stage_killed_at_any_moment_leaves_a_valid_bundle(bundle: Bundle) -> None:
    with bundle.stage("export") as stage:
        for name in ("a.md", "b.md"):
            stage.write(name, "before")
    for attempt in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", _REWRITER, str(bundle.path)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        with process.stdout:
            process.stdout.readline()
            time.sleep(0.02 + 0.007 * attempt)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        found = Bundle.open(bundle.path)
        assert found.file("a.md").read_bytes() == found.file("b.md").read_bytes()


# Rule 3: nothing executable, and engines only where they were built.


@pytest.mark.parametrize(
    "name",
    ["model.pkl", "weights.pt", "run.py", "../outside.json", "/etc/x.json", "x", ".a.md"],
)
def test_files_that_could_execute_or_lie_outside_are_refused(
    bundle: Bundle, name: str
) -> None:
    with pytest.raises(ForbiddenFileError, match="A bundle holds"):
        with bundle.stage("export") as stage:
            stage.write(name, b"")


def test_a_manifest_that_names_such_a_file_is_refused(bundle_path: Path) -> None:
    document = json.loads((bundle_path / MANIFEST).read_bytes())
    files = document["files"]
    files["model.pkl"] = files.pop("model.safetensors")
    reseal(bundle_path, files=files)
    with pytest.raises(ForbiddenFileError, match=r"model\.pkl"):
        Bundle.open(bundle_path)


@pytest.mark.parametrize(
    "page",
    [
        "<!doctype html><p>no policy</p>",
        PAGE_START.replace("default-src", "font-src"),
        f"<p>first</p>{PAGE_START}",
        f"{PAGE_START}<script>alert(1)</script>",
    ],
)
def test_a_page_that_could_run_something_is_neither_written_nor_read(
    bundle: Bundle, page: str
) -> None:
    before = (bundle.path / MANIFEST).read_bytes()
    with (
        pytest.raises(ForbiddenFileError, match=r"expected report\.html to start with"),
        bundle.stage("evaluate") as stage,
    ):
        stage.write("report.html", page)
    assert (bundle.path / MANIFEST).read_bytes() == before
    (bundle.path / "report.html").write_text(page)
    entry = bundle.manifest.files["report.html"].model_dump()
    digest = hashlib.sha256(page.encode()).hexdigest()
    files = bundle.manifest.model_dump()["files"]
    files["report.html"] = entry | {"sha256": digest, "bytes": len(page)}
    reseal(bundle.path, files=files)
    with pytest.raises(
        ForbiddenFileError, match="An HTML page in a bundle must not run code"
    ):
        Bundle.open(bundle.path)


def test_an_engine_of_another_machine_is_refused_in_both_directions() -> None:
    stamp = EngineStamp.from_name("engines/sm90-trt10.13-fp16.engine")
    stamp.require_match(Machine(gpu="sm90", versions={"trt": "10.13"}))
    for machine, found in [
        (Machine(gpu="sm89", versions={"trt": "10.13"}), "sm89"),
        (Machine(gpu="sm90", versions={"trt": "10.11"}), r"10\.11"),
        (Machine(gpu=None, versions={}), "no NVIDIA GPU"),
    ]:
        with pytest.raises(EngineMismatchError, match=rf"built for sm90.*{found}"):
            stamp.require_match(machine)


def test_an_engine_without_a_stamp_is_refused() -> None:
    with pytest.raises(EngineMismatchError, match="has no stamp"):
        EngineStamp.from_name("engines/model.engine")


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_an_engine_is_refused_on_another_device_than_the_first_gpu(
    bundle: Bundle, device: str
) -> None:
    engine = replace(vouched_artifact(bundle), name="engines/sm90-trt10.13-fp16.engine")
    with pytest.raises(UsageError, match=f"runs on the first GPU, not on device {device}"):
        open_runner(bundle, engine, How(device=Device.parse(device)))


def test_an_engine_in_the_manifest_is_judged_before_it_is_loaded(bundle: Bundle) -> None:
    engine = "engines/sm12-trt1.0-fp16.engine"  # no machine has this GPU
    with bundle.stage("export") as stage:
        stage.write(engine, b"not an engine")
        stage.write(parity_name(engine), "{}")
    with pytest.raises(EngineMismatchError, match="built for sm12"):
        vouched_artifact(bundle, engine)


# Rules 4 and 5: parity binds to a hash, calibration to an artifact.


def test_an_artifact_without_a_report_is_not_run(bundle: Bundle) -> None:
    with bundle.stage("export") as stage:
        stage.write("onnx/other.onnx", b"graph")
    with pytest.raises(
        UnvouchedArtifactError, match=r"no onnx/other\.onnx with a parity report"
    ):
        vouched_artifact(bundle, "onnx/other.onnx")


def test_a_report_for_another_hash_vouches_for_nothing(bundle: Bundle) -> None:
    with bundle.stage("export") as stage:
        stage.write(ONNX, b"another graph")
    with pytest.raises(UnvouchedArtifactError, match="vouches for"):
        vouched_artifact(bundle)


@pytest.mark.parametrize(
    "change",
    [
        {"calibration": None},
        {"figures": {"images": 0}},
        {"figures": {"min_cosine": float("nan")}},
        {"figures": {"max_abs_error": 1.0}},
        {"figures": {"max_score_error": 1.0}},
    ],
)
def test_a_report_that_does_not_hold_vouches_for_nothing(
    bundle: Bundle, change: dict[str, object]
) -> None:
    report = bundle.record(parity_name(ONNX), ParityReport)
    document = report.model_dump()
    for key, value in change.items():
        document[key] = document[key] | value if isinstance(value, dict) else value
    with bundle.stage("export") as stage:
        stage.write(parity_name(ONNX), ParityReport.model_validate(document))
    with pytest.raises(UnvouchedArtifactError, match="did not pass parity"):
        vouched_artifact(bundle)


def test_a_graph_for_other_pixels_than_the_manifests_is_not_run(bundle: Bundle) -> None:
    document = json.loads((bundle.path / MANIFEST).read_bytes())
    reseal(bundle.path, preprocessing=document["preprocessing"] | {"crop": 0.5})
    changed = Bundle.open(bundle.path)
    with pytest.raises(UnvouchedArtifactError, match="exported for pixels preprocessed"):
        open_runner(changed, vouched_artifact(changed))


# Rule 6: schema versions.


@pytest.mark.parametrize("version", [0, -1, "1", 1.5, True, None])
def test_a_schema_version_that_is_no_known_integer_is_refused(
    bundle_path: Path, version: object
) -> None:
    reseal(bundle_path, schema_version=version)
    with pytest.raises(SchemaVersionError, match="integer from 1"):
        Bundle.open(bundle_path)


def test_a_manifest_of_before_own_students_stays_byte_by_byte(bundle: Bundle) -> None:
    """Otherwise a stage would think that another process has changed it."""
    content = (bundle.path / MANIFEST).read_bytes()
    assert b'"code"' not in content
    assert b'"arguments"' not in content
    with bundle.stage("evaluate") as stage:
        stage.write("report.html", bundle.file("report.html").read_bytes())


def test_a_newer_schema_is_refused_and_says_so(bundle_path: Path) -> None:
    reseal(bundle_path, schema_version=2)
    with pytest.raises(SchemaVersionError, match=r"has schema_version 2; .* up to 1"):
        Bundle.open(bundle_path)


def test_an_older_schema_is_upgraded_by_its_named_function(bundle: Bundle) -> None:
    def upgrade_1_to_2(document: dict[str, object]) -> dict[str, object]:
        return document | {"schema_version": 2, "name": "renamed"}

    content = manifest_to_bytes(bundle.manifest)
    upgraded = manifest_from_bytes(content, where="here", upgrades={1: upgrade_1_to_2})
    assert (upgraded.schema_version, upgraded.name) == (2, "renamed")


# Rule 7: the golden check.


def test_the_golden_check_passes_on_the_artifact_it_was_made_with(bundle: Bundle) -> None:
    artifact = vouched_artifact(bundle)
    require_golden(bundle, artifact, OnnxRunner(artifact.path))


@pytest.mark.parametrize("what", ["pixels", "embeddings", "ood_scores"])
def test_the_golden_check_fails_on_any_difference(bundle: Bundle, what: str) -> None:
    artifact = vouched_artifact(bundle)
    arrays = bundle.arrays(GOLDEN)
    if what == "pixels":
        arrays[what] = 255 - arrays[what]
    else:
        arrays[what] = arrays[what][::-1]
    with bundle.stage("export") as stage:
        stage.write_arrays(GOLDEN, arrays)
    with pytest.raises(CheckFailedError, match="golden images"):
        require_golden(bundle, artifact, OnnxRunner(artifact.path))


def test_a_decision_may_flip_where_scores_may_move_so_far(bundle: Bundle) -> None:
    """The scores of an int8 artifact may move that far; those of float32 may not."""
    artifact = vouched_artifact(bundle)
    arrays = bundle.arrays(GOLDEN)
    scores = arrays["ood_scores"]
    flagged = artifact.calibration.is_ood(scores)
    least = int(np.where(flagged, scores, np.inf).argmin())
    assert flagged[least]
    threshold = float(artifact.calibration.scores[-1])
    moved = np.float32(min(scores[least] - threshold, np.ptp(scores)) * 1.01)
    arrays["ood_scores"][least] -= moved
    assert not artifact.calibration.is_ood(arrays["ood_scores"])[least]
    with bundle.stage("export") as stage:
        stage.write_arrays(GOLDEN, arrays)
    with pytest.raises(CheckFailedError, match="max_score_error"):
        require_golden(bundle, artifact, OnnxRunner(artifact.path))
    lax = artifact.report.tolerance.model_copy(update={"max_score_error": 10.0})
    report = artifact.report.model_copy(update={"tolerance": lax})
    artifact = replace(artifact, report=report)
    require_golden(bundle, artifact, OnnxRunner(artifact.path))


def test_a_nan_fails_the_golden_check(bundle: Bundle) -> None:
    artifact = vouched_artifact(bundle)
    arrays = bundle.arrays(GOLDEN)
    arrays["embeddings"] = np.full_like(arrays["embeddings"], np.nan)
    with bundle.stage("export") as stage:
        stage.write_arrays(GOLDEN, arrays)
    with pytest.raises(CheckFailedError, match="nan"):
        require_golden(bundle, artifact, OnnxRunner(artifact.path))


def test_a_bundle_below_a_file_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    require_absent(tmp_path / "new" / "folder" / "a.isogon")
    with pytest.raises(UsageError, match=r"file is a file, not a folder\. Choose another"):
        require_absent(tmp_path / "file" / "new" / "a.isogon")

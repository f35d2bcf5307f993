"""What an ONNX file carries, and that writing it changes nothing else."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from export.onnx import save_model, set_metadata, stamp
from isogon.bundle import ONNX, Bundle, Manifest, Metadata, Reduction, function_digest
from isogon.ood import Calibration
from isogon.runtimes import OnnxRunner, Outputs

DETECTOR, STATISTICS = "a" * 64, "b" * 64


@pytest.fixture
def metadata(bundle: Bundle) -> Metadata:
    scores = np.random.default_rng(0).normal(size=30).astype(np.float32)
    return Metadata(
        preprocessing=bundle.manifest.preprocessing,
        calibration=Calibration.from_scores(scores, 0.05),
        function="c" * 64,
    )


@pytest.fixture
def path(bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copy(bundle.file(ONNX), tmp_path / "copy.onnx"))


def properties(path: Path) -> dict[str, str]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found: dict[str, str] = session.get_modelmeta().custom_metadata_map
    return found


def outputs(path: Path, bundle: Bundle) -> Outputs:
    pixels = bundle.arrays("held_out.safetensors")["familiar"][:5]
    return OnnxRunner(path, threads=1).run(pixels)


def test_what_is_stamped_is_read_back_exactly(path: Path, metadata: Metadata) -> None:
    stamp(path, metadata)
    found = Metadata.from_properties(properties(path), str(path))
    assert found == metadata
    assert found.calibration.scores == metadata.calibration.scores  # to the last bit


def test_stamping_changes_nothing_but_the_metadata(path: Path, metadata: Metadata) -> None:
    before = onnx.load(path)
    stamp(path, metadata)
    after = onnx.load(path)
    assert len(after.metadata_props) == 4  # the preprocessing is there once
    for model in (before, after):
        del model.metadata_props[:]
    assert before.SerializeToString() == after.SerializeToString()
    assert not list(path.parent.glob("*.stamped"))


def test_the_same_file_and_metadata_give_the_same_bytes(
    path: Path, metadata: Metadata
) -> None:
    other = Path(shutil.copy(path, path.with_name("other.onnx")))
    stamp(path, metadata)
    first = path.read_bytes()
    stamp(path, metadata)
    stamp(other, metadata)
    assert path.read_bytes() == first
    assert other.read_bytes() == first


def test_a_new_stamp_replaces_the_old_and_keeps_what_others_wrote(
    path: Path, metadata: Metadata
) -> None:
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"author": "someone", "isogon.function": "old"})
    set_metadata(model, metadata)
    onnx.save(model, path)
    found = properties(path)
    assert found.pop("author") == "someone"
    assert found == metadata.properties()


def test_tensors_beside_the_file_stay_where_they_are(
    path: Path, metadata: Metadata, bundle: Bundle
) -> None:
    expected, whole = outputs(path, bundle), path.stat().st_size
    save_model(onnx.load(path), path, largest=10_000)
    tensors = path.with_name("copy.onnx.data")
    held, modified = tensors.read_bytes(), tensors.stat().st_mtime_ns
    assert len(held) > 10_000
    assert path.stat().st_size < whole - 0.9 * len(held)
    stamp(path, metadata)
    assert tensors.read_bytes() == held
    assert tensors.stat().st_mtime_ns == modified
    assert Metadata.from_properties(properties(path), str(path)) == metadata
    found = outputs(path, bundle)
    assert np.array_equal(found.embeddings, expected.embeddings)
    assert np.array_equal(found.ood_scores, expected.ood_scores)


def test_a_model_that_fits_is_one_file_again(path: Path, bundle: Bundle) -> None:
    expected = outputs(path, bundle)
    model = onnx.load(path)
    save_model(onnx.load(path), path, largest=10_000)
    first = path.with_name("copy.onnx.data").read_bytes()
    save_model(onnx.load(path), path, largest=10_000)  # anew, not behind what was there
    assert path.with_name("copy.onnx.data").read_bytes() == first
    save_model(model, path)
    assert [each.name for each in path.parent.iterdir() if each.is_file()] == ["copy.onnx"]
    assert np.array_equal(outputs(path, bundle).embeddings, expected.embeddings)


def fingerprint(manifest: Manifest, reduction: Reduction | None = None) -> str:
    return function_digest(
        manifest, detector=DETECTOR, statistics=STATISTICS, reduction=reduction
    )


def reduction(*, size: int, vectors: str = "d" * 64) -> Reduction:
    return Reduction(
        statistics=STATISTICS,
        vectors=vectors,
        bank=100,
        size=size,
        k_before=5,
        k=1,
        familiar=0,
        unfamiliar=0,
        auroc_before=None,
        auroc=None,
    )


def test_the_fingerprint_changes_with_the_function(bundle: Bundle) -> None:
    manifest = bundle.manifest
    weights = manifest.files["model.safetensors"]
    smaller = manifest.preprocessing.model_copy(update={"crop": 0.9})
    card = manifest.student.model_copy(update={"architecture": "resnet18"})
    other = {"model.safetensors": weights.model_copy(update={"sha256": "e" * 64})}
    found = [
        fingerprint(manifest),
        fingerprint(manifest.model_copy(update={"preprocessing": smaller})),
        fingerprint(manifest.model_copy(update={"student": card})),
        fingerprint(manifest.model_copy(update={"files": manifest.files | other})),
        fingerprint(manifest, reduction(size=10)),
        fingerprint(manifest, reduction(size=10, vectors="f" * 64)),
        function_digest(manifest, detector="f", statistics=STATISTICS, reduction=None),
        function_digest(manifest, detector=DETECTOR, statistics="f", reduction=None),
    ]
    assert len(set(found)) == len(found)
    assert all(len(each) == 64 for each in found)


def test_the_fingerprint_does_not_change_with_anything_else(bundle: Bundle) -> None:
    manifest = bundle.manifest
    expected = fingerprint(manifest)
    weights = {"model.safetensors": manifest.files["model.safetensors"]}
    renamed = manifest.model_copy(update={"name": "other", "files": weights})
    assert fingerprint(renamed) == expected
    assert fingerprint(manifest, reduction(size=100)) == expected  # the whole bank


def test_the_fingerprint_is_the_documented_hash(bundle: Bundle) -> None:
    manifest = bundle.manifest
    crop = manifest.preprocessing
    text = (
        f'{{"architecture":"test_resnet","detector":"{DETECTOR}",'
        f'"preprocessing":{{"crop":{crop.crop},"height":{crop.height},'
        f'"mean":[{",".join(map(str, crop.mean))}],"std":[{",".join(map(str, crop.std))}],'
        f'"width":{crop.width}}},"reduction":null,"statistics":"{STATISTICS}",'
        f'"weights":"{manifest.files["model.safetensors"].sha256}"}}'
    )
    assert fingerprint(manifest) == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("opset", "ir", "release"), [(18, 8, "1.14"), (20, 9, "1.17"), (21, 10, "1.18")]
)
def test_a_file_says_the_oldest_onnx_runtime_that_opens_it(
    opset: int, ir: int, release: str, path: Path, metadata: Metadata
) -> None:
    model = onnx.load(path)
    model.opset_import[0].version = opset
    save_model(model, path)
    stamp(path, metadata)
    held = onnx.load(path)
    assert held.ir_version == ir
    assert {e.key: e.value for e in held.metadata_props}["isogon.onnxruntime"] == release

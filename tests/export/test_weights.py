"""Plain state dicts load strictly in a new network, and give the same embeddings."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch

from export import export_weights
from isogon.bundle import HELD_OUT, Bundle, StudentCard
from isogon.errors import UsageError
from isogon.images import Preprocessing
from isogon.networks import (
    Student,
    code_of,
    own_network,
    preprocessing_of,
    student_from_bundle,
    timm_model,
)

SIZE = 32

BundleOf = Callable[[Student, StudentCard, Path], Bundle]


def card_of(student: Student, name: str, **more: dict[str, str]) -> StudentCard:
    return StudentCard(
        architecture=name,
        licence="MIT",
        width=student.width,
        embedding_layer=student.embedding is not None,
        parameters=1,
        **more,
    )


def timm_bundle(bundle_of: BundleOf, name: str, width: int | None, path: Path) -> Bundle:
    torch.manual_seed(0)
    model = timm_model(name, size=(SIZE, SIZE))
    preprocessing = preprocessing_of(name, SIZE, 1.0)
    student = Student.new(model, preprocessing, width=width).eval()
    return bundle_of(student, card_of(student, name), path)


def by_snippet(snippet: str, bundle: Bundle) -> np.ndarray:
    """Run the snippet as a user would, in a process without Isogon."""
    pixels = bundle.arrays(HELD_OUT)["familiar"]
    images = Path("images.npy").absolute()
    np.save(images, pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255)
    lines = snippet.replace(
        "images = (images",
        f"import numpy\nimages = torch.from_numpy(numpy.load({str(images)!r}))\n"
        "images = (images",
    )
    lines += "\nnumpy.save('found.npy', embeddings.detach().numpy())"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", lines], check=True, env=environment)
    return np.load("found.npy")


@pytest.mark.parametrize(
    ("name", "width", "way", "suffix"),
    [
        ("test_resnet", 16, "layer(model(images))", "safetensors"),
        ("test_vit", None, "normalize(model(images), dim=1)", "pth"),
        pytest.param(  # pooled by attention
            "test_vit3", 16, "layer(model(images))", "pth", marks=pytest.mark.slow
        ),
        pytest.param(
            "mobilenetv4_conv_small_035",
            16,
            "forward_features(images).mean((2, 3))",
            "safetensors",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_plain_weights_give_the_students_embeddings_outside_of_isogon(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bundle_of: BundleOf,
    suffix: str,
    name: str,
    width: int | None,
    way: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    bundle = timm_bundle(bundle_of, name, width, tmp_path / "s.isogon")
    written = export_weights(bundle, Path(f"w.{suffix}"))
    assert way in written.snippet
    assert (written.embedding is not None) == (width is not None)
    expected = student_from_bundle(bundle).embed(
        torch.from_numpy(bundle.arrays(HELD_OUT)["familiar"])
    )
    assert np.abs(by_snippet(written.snippet, bundle) - expected.numpy()).max() < 1e-5


def test_a_layer_that_the_student_lacks_is_zeros_and_named(
    tmp_path: Path, bundle_of: BundleOf
) -> None:
    bundle = timm_bundle(bundle_of, "mobilenetv4_conv_small_035", 16, tmp_path / "s.isogon")
    written = export_weights(bundle, tmp_path / "w.safetensors")
    assert written.zeros[0] == "conv_head.weight"
    state = safetensors.torch.load_file(written.backbone)
    model = timm.create_model("mobilenetv4_conv_small_035", num_classes=0)
    model.load_state_dict(state, strict=True)
    assert not any(state[key].any() for key in written.zeros)


def test_plain_weights_of_an_own_network_fill_it(
    own_networks: str, tmp_path: Path, bundle_of: BundleOf
) -> None:
    name = f"{own_networks}:transformer"
    backbone = own_network(
        name,
        Preprocessing(height=SIZE, width=SIZE, mean=(0.5,) * 3, std=(0.5,) * 3),
    )
    student = Student.on(backbone, width=16).eval()
    card = card_of(student, name, code=code_of(name, backbone.network))
    bundle = bundle_of(student, card, tmp_path / "s.isogon")
    written = export_weights(bundle, Path("w.pth"))
    assert written.embedding == Path("w.embedding.pth")
    expected = student.embed(torch.from_numpy(bundle.arrays(HELD_OUT)["familiar"]))
    found = by_snippet(written.snippet, bundle)
    assert np.abs(found - expected.detach().numpy()).max() < 1e-5


def test_plain_weights_are_what_another_student_may_start_from(
    bundle: Bundle, tmp_path: Path
) -> None:
    from distill.weights import pretrained

    written = export_weights(bundle, tmp_path / "w.safetensors")
    name = bundle.manifest.student.architecture
    found = pretrained(name, str(written.backbone), size=(SIZE, SIZE)).model.state_dict()
    trained = student_from_bundle(bundle).backbone.plain.state_dict()
    assert all(torch.equal(value, trained[key]) for key, value in found.items())


def test_files_that_are_there_or_of_another_kind_are_refused(
    bundle: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"ends in \.safetensors, \.pth, \.pt, got"):
        export_weights(bundle, tmp_path / "w.bin")
    (tmp_path / "w.embedding.pth").touch()
    with pytest.raises(UsageError, match=r"w\.embedding\.pth exists already"):
        export_weights(bundle, tmp_path / "w.pth")
    with pytest.raises(UsageError, match="There is no folder"):
        export_weights(bundle, tmp_path / "nowhere" / "w.pth")

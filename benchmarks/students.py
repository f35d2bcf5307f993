"""Students for the exporter without a bundle: photographs, weights, gated ONNX files."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import torch
from lively import centred, lively
from rich.progress import Progress

from distill.images.listing import open_source
from distill.images.sample_images import sample_images
from distill.weights import pretrained
from export import ExportPlan
from export.conversion import converted
from export.deployed import DeployedFunction
from export.gate import Gate
from export.graph import DeployedGraph
from export.onnx import Target, save_onnx
from export.parity import ParityImages
from isogon.images import Preprocessing
from isogon.networks import Student, preprocessing_of, timm_model
from isogon.ood import Knn
from isogon.parity import ParityReport
from isogon.runtimes import Pixels, Precision

ALPHA = 0.05  # false-alarm rate; 19 in-distribution (familiar) images are enough
_UNFAMILIAR_SHARE = 0.25
_SETTLED_ON = 48  # images of the bank for batch statistics and the mean
_NEIGHBOUR = 5  # the k of the knn detector
PRECISIONS: tuple[Precision, ...] = get_args(Precision)  # float32 first


@dataclass(frozen=True, kw_only=True, slots=True)
class Photographs:
    """Pixels of the bank, which int8 also observes, and of other images to compare on."""

    bank: Pixels
    images: ParityImages


def photographs(
    source: str | None, preprocessing: Preprocessing, folder: Path, *, compared: int
) -> Photographs:
    """Return half of the images as a bank, and at most `compared` of the others.

    A quarter of these are inverted to be out-of-distribution (unfamiliar). The same
    source gives the same pixels every time.

    Args:
        source: as in a recipe's `[data]`; None: scikit-image's and scikit-learn's.
        preprocessing: of the model.
        folder: where the packages' images are written.
        compared: number of images to compare on.
    """
    progress = Progress(disable=True)
    images = open_source(source or str(sample_images(folder / "images", progress)[1]))
    order = np.random.default_rng(0).permutation(len(images))
    bank, others = order[: len(order) // 2], order[len(order) // 2 :][:compared]
    pixels = images.pixels(others, preprocessing, progress)
    unfamiliar = int(_UNFAMILIAR_SHARE * len(others))
    return Photographs(
        bank=images.pixels(bank, preprocessing, progress),
        images=ParityImages.joined(
            pixels[unfamiliar:], 255 - pixels[:unfamiliar], alpha=ALPHA
        ),
    )


def deployed(
    name: str,
    size: int,
    checkpoint: str | None,
    photos: Photographs,
    *,
    width: int,
    bank: int | None = None,
) -> DeployedFunction:
    """Return a student with a knn detector, ready to export.

    Args:
        name: of a timm model.
        size: pixels, height and width.
        checkpoint: of trained weights, as in a recipe; None: `lively` weights.
        photos: at that size.
        width: embedding dimension.
        bank: number of vectors in the detector's bank; embeddings are repeated or cut.
            None: one per photograph.
    """
    preprocessing, pixels = preprocessing_of(name, size, 1.0), photos.bank
    torch.manual_seed(0)
    if checkpoint is None:
        model = timm_model(name, size=(size, size))
        student = Student.new(model, preprocessing, width=width)
        lively(student, pixels[:_SETTLED_ON], 0)
    else:
        model = pretrained(name, checkpoint, size=(size, size)).model
        student = Student.new(model, preprocessing, width=width)
        centred(student, pixels[:_SETTLED_ON])
    with torch.inference_mode():
        familiar = student.embed(torch.from_numpy(pixels)).numpy()
    vectors = np.resize(familiar, (bank or len(familiar), width))
    return DeployedFunction(
        graph=DeployedGraph(student, Knn.fit(vectors, k=_NEIGHBOUR)).eval(),
        function=sha256(f"{name} {size} {width} {checkpoint}".encode()).hexdigest(),
        preprocessing=preprocessing,
        images=photos.images,
        samples=lambda: pixels,
        reduction=None,
    )


def onnx_name(precision: Precision, target: Target = "onnxruntime") -> str:
    """Return the file's name; only int8 has another file for TensorRT."""
    other = precision == "int8" and target == "tensorrt"
    return f"model.{precision}{'.tensorrt' if other else ''}.onnx"


def write_files(
    precision: Precision,
    deployed: DeployedFunction,
    folder: Path,
    *,
    gate: Gate,
    plan: ExportPlan,
    progress: Progress,
) -> dict[str, ParityReport]:
    """Write a precision's file to `folder`, two for int8; return their reports by name.

    Float32 comes first. A lower precision that fails is repaired; its file is written
    even if it still fails.
    """
    float32 = folder / onnx_name("fp32")
    if precision == "fp32":
        save_onnx(deployed.graph, deployed.preprocessing, float32)
        model = onnx.load(float32)
        run = gate.try_model(model, float32, float32.name, precision)
        return {float32.name: gate.judge(run)}
    reports = {}
    for target in get_args(Target) if precision == "int8" else ("onnxruntime",):
        made = converted(
            deployed,
            onnx.load(float32),
            precision,
            folder,
            gate=gate,
            plan=plan,
            progress=progress,
            target=target,
        )
        reports[made.file.name] = made.report
    return reports

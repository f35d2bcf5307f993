"""Compare an artifact with a new float32 export of its bundle."""

from pathlib import Path

import numpy as np
import onnx

from export.divergence.compare import first_divergence
from export.divergence.modules import module_divergence
from export.divergence.node_errors import Divergence
from export.graph import graph_from_bundle
from export.onnx import float32_model
from export.onnx.reading import read_onnx
from export.parity import ParityImages
from isogon.bundle import GOLDEN, Bundle
from isogon.errors import UsageError
from isogon.progress import Progress
from isogon.runtimes import Pixels

_IMAGES = 8


def divergence_of(
    bundle: Bundle,
    artifact: Path | str,
    progress: Progress,
    *,
    pixels: Pixels | None = None,
    bound: float | None = None,
) -> Divergence:
    """Compare an ONNX artifact, node by node, with the bundle's own float32 graph.

    The reference is exported again, whatever the artifact's precision: its nodes get
    the same names each time. If no node diverges, the new export is compared with eager
    torch, module by module; if its outputs diverge, that comparison is returned.

    Args:
        bundle: a distilled bundle.
        artifact: a name inside it (`onnx/model.fp16.onnx`), or any ONNX file, such as
            a rejected one.
        progress: where to show progress.
        pixels: real images; None: 8 of the bundle's, in- and out-of-distribution.
        bound: see `first_divergence`.

    Raises:
        UsageError: the artifact is an engine, or not an ONNX file.
        CheckFailedError: it has no node in common with the bundle's graph.
    """
    candidate = _load(bundle, artifact)
    graph = graph_from_bundle(bundle)
    preprocessing = bundle.manifest.preprocessing
    reference = float32_model(graph, preprocessing, progress, "Exporting the reference")
    if pixels is None:
        pixels = _few_images(bundle)
    found = first_divergence(reference, candidate, pixels, bound=bound, progress=progress)
    if found.first is None and not found.only_when_fused:
        beside_torch = module_divergence(graph, reference, pixels, progress=progress)
        if not beside_torch.output_error <= beside_torch.bound:
            return beside_torch
    return found


def _few_images(bundle: Bundle, count: int = _IMAGES) -> Pixels:
    """Return golden images (lowest and highest OOD scores) and held-out ones."""
    chosen = ParityImages.of(bundle).pixels[:count]
    if GOLDEN in bundle:
        golden = bundle.arrays(GOLDEN)["pixels"]
        some = golden[np.linspace(0, len(golden) - 1, count // 2, dtype=int)]
        chosen = np.concatenate([some, chosen])[:count]
    return chosen


def _load(bundle: Bundle, artifact: Path | str) -> onnx.ModelProto:
    name = str(artifact)
    if name.endswith(".engine"):
        raise UsageError(
            f"{name} is an engine: TensorRT fuses its nodes and shows no tensor between "
            "them. Compare the ONNX file of the same precision, from which it was built: "
            "`isogon verify BUNDLE --diverge onnx/model.onnx`, or model.fp16.onnx, "
            "model.int8.onnx."
        )
    path = bundle.file(name) if name in bundle else Path(artifact)
    if not path.exists():
        held = ", ".join(n for n in bundle.manifest.files if n.endswith(".onnx"))
        raise UsageError(
            f"{name} is neither in {bundle.path} nor a file. Artifacts in the bundle: "
            f"{held or 'none'}."
        )
    model = read_onnx(path)
    crop = bundle.manifest.preprocessing
    expected = {"images": (crop.height, crop.width, 3)}
    found = {
        value.name: tuple(axis.dim_value for axis in value.type.tensor_type.shape.dim[1:])
        for value in model.graph.input
    }
    if found != expected:
        raise UsageError(
            f"{path} takes {found}, expected the bundle's pixels, {expected}. Give a file "
            f"that `isogon export` wrote for this bundle."
        )
    return model

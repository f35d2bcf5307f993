"""Train an int8 graph for a few hundred steps to give float32's embeddings."""

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from export.finetuning.network import QuantisedNetwork
from export.onnx.int8 import Target, corrected_biases, quantised, unquantised
from export.onnx.observation import ObservedActivations
from isogon.progress import Progress, Silent
from isogon.runtimes import Pixels

_BATCH = 16
_LEARNING_RATE = 0.02  # in units of a weight's scale over sqrt(fan-in)
_WARMUP = 0.1  # share of the steps
_LEAST_AREA = 0.4  # of a crop
_SEED = 0


def finetuned(
    model: onnx.ModelProto,
    observed: ObservedActivations,
    pixels: Pixels,
    *,
    target: Target = "onnxruntime",
    keep: frozenset[str] = frozenset(),
    steps: int,
    progress: Progress | None = None,
) -> onnx.ModelProto:
    """Return `model` with weights trained for int8; quantise them with `correct=False`.

    The int8 graph of `model` runs in torch (`QuantisedNetwork`). Its weights are trained
    so that its embeddings equal the float32 graph's on the same pixels, which is what the
    gate measures. Half of each batch are whole images, half are crops. Neither labels nor
    a teacher are needed. Scales and zero points of activations do not change.

    On CPU the same input gives the same result.

    Args:
        model: the float32 graph.
        observed: its ranges and means.
        pixels: real images that the gate does not use.
        target: the runtime whose int8 encoding is used.
        keep: names of nodes that stay in float32.
        steps: of Adam, on 16 images each.
        progress: where to show progress.

    Raises:
        UsageError: the graph has an operator that fine-tuning does not support.
    """
    shown = progress or Silent()
    base = corrected_biases(model, observed, unquantised(model, keep))
    graph = quantised(base, observed, target=target, keep=keep, correct=False)
    network = QuantisedNetwork(graph, base)
    teacher = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    optimiser = torch.optim.Adam(network.parameters(), lr=_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, _LEARNING_RATE, total_steps=max(steps, 2), pct_start=_WARMUP
    )
    generator = np.random.default_rng(_SEED)
    task = shown.add_task("Fine-tuning int8", total=steps)
    for _ in range(steps):
        chosen = generator.choice(len(pixels), min(_BATCH, len(pixels)), replace=False)
        views = _views(torch.from_numpy(pixels[chosen]), generator)
        expected = teacher.run(["embedding"], {"images": views.numpy()})[0]
        loss = _distance(network(views), torch.from_numpy(expected))
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
        shown.update(
            task, advance=1, description=f"Fine-tuning int8, 1 - cosine {loss:.4f}"
        )
    return network.trained(base)


def _distance(
    embeddings: Float[Tensor, "b d"], expected: Float[Tensor, "b d"]
) -> Float[Tensor, ""]:
    """Return the mean of 1 - cosine; both have unit norm."""
    return (1 - (embeddings * expected).sum(dim=1)).mean()


def _views(
    images: UInt8[Tensor, "b h w 3"], generator: np.random.Generator
) -> UInt8[Tensor, "b h w 3"]:
    """Return the images, every second one randomly cropped and perhaps mirrored."""
    views = images.clone()
    crops = torch.stack([_crop(image, generator) for image in images[::2]])
    views[::2] = crops.round().clamp(0, 255).to(torch.uint8)
    return views


def _crop(
    image: UInt8[Tensor, "h w 3"], generator: np.random.Generator
) -> Float[Tensor, "h w 3"]:
    height, width = image.shape[:2]
    share = generator.uniform(_LEAST_AREA, 1) ** 0.5
    high, wide = max(1, round(height * share)), max(1, round(width * share))
    top, left = (int(generator.integers(n + 1)) for n in (height - high, width - wide))
    crop = image[top : top + high, left : left + wide].permute(2, 0, 1)[None]
    large = F.interpolate(crop.float(), (height, width), mode="bilinear")
    view = large[0].permute(1, 2, 0)
    return view.flip(1) if generator.random() < 0.5 else view

"""Compare two graphs node by node: where does the candidate first differ?"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from jaxtyping import Num

from export.divergence.node_errors import Divergence, NodeError
from export.divergence.tensors import as_stored, exposing, groups, open_session, run
from export.onnx.reading import module_of, precision_of
from isogon.errors import CheckFailedError, UsageError
from isogon.progress import Progress, Silent
from isogon.runtimes import Pixels, Precision

BATCH = 2  # images at a time: 2 is enough to show mixed-up batch axes

# Relative errors, by precision. For fp16 and int8: the error that the gate allows the
# embedding (a cosine of c is an error of sqrt(2 (1 - c))); for fp32: the gate's largest
# absolute error. Measured largest error of a node on tf_efficientnet_lite0 with its trained
# weights at 224 pixels, 8 photographs: fp32 2.2e-6 (against eager torch),
# fp16 6.9e-3, int8 0.09 and 0.11.
BOUNDS: Mapping[Precision, float] = {"fp32": 1e-4, "fp16": 1.4e-2, "int8": 0.14}


@dataclass(slots=True)
class TensorDifference:
    """Sums for one tensor over the images so far: a is the reference's, b the other's."""

    aa: float = 0.0
    bb: float = 0.0
    ab: float = 0.0
    squares: float = 0.0  # of a - b

    def add(self, a: Num[np.ndarray, "..."], b: Num[np.ndarray, "..."]) -> None:
        """Add one batch. Equal infinities are equal; another shape is an infinite error."""
        if a.shape != b.shape:
            self.squares = np.inf
            return
        a, b = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
        masked = np.isinf(a) & (a == b)
        if masked.any():
            a, b = a[~masked], b[~masked]
        with np.errstate(invalid="ignore"):  # infinities become NaN, which `error` sees
            self.aa += float(a @ a)
            self.bb += float(b @ b)
            self.ab += float(a @ b)
            difference = a - b
            self.squares += float(difference @ difference)

    @property
    def error(self) -> float:
        """||a - b|| / ||a||; infinite if anything is not finite."""
        if self.squares == 0.0:
            return 0.0
        if not np.isfinite(self.squares) or self.aa == 0.0:
            return float(np.inf)
        return float(np.sqrt(self.squares / self.aa))

    @property
    def cosine(self) -> float:
        """The cosine of a and b, flattened; NaN if anything is not finite."""
        if self.squares == 0.0:
            return 1.0
        if not np.isfinite(self.squares) or not self.aa or not self.bb:
            return float(np.nan)
        return float(self.ab / np.sqrt(self.aa * self.bb))


def matched(
    reference: onnx.ModelProto, candidate: onnx.ModelProto
) -> list[tuple[onnx.NodeProto, onnx.NodeProto]]:
    """Return the pairs of nodes with the same name, in the reference's order."""
    named = {node.name: node for node in candidate.graph.node if node.name}
    return [(node, named[node.name]) for node in reference.graph.node if node.name in named]


def first_divergence(
    reference: onnx.ModelProto,
    candidate: onnx.ModelProto,
    pixels: Pixels,
    *,
    bound: float | None = None,
    progress: Progress | None = None,
) -> Divergence:
    """Compare the outputs of all nodes that have the same name in both graphs.

    Both run in ONNX Runtime on the CPU without optimisations, because fused nodes have
    no tensors to compare. The served graph does use the fused kernels, so the outputs
    are compared once more with optimisations on (`fused_error`). A float16 candidate
    runs `as_stored`, because the CPU's kernels would hide its overflows.

    A node's error is that of its first output. Rounding to int8 (Q/DQ) or a cast after
    it counts for the node that reads the rounded tensor, because keeping that node in
    float32 removes the rounding.
    Integer tensors (shapes, indices) are not compared, except pixels.

    Args:
        reference: the float32 graph.
        candidate: another graph of the same function, with the same node names.
        pixels: a few real images; memory does not grow with their number.
        bound: the largest relative error allowed; None: `BOUNDS` of the precision.
        progress: where to show progress.

    Raises:
        CheckFailedError: the graphs have no node in common.
        UsageError: there are no images, or a graph does not load in ONNX Runtime.
    """
    if not len(pixels):
        raise UsageError("Comparing two graphs needs at least one image; none were given.")
    progress = progress or Silent()
    precision = precision_of(candidate)
    pairs = matched(reference, candidate)
    run_as = as_stored(candidate) if precision == "fp16" else candidate
    differences = _differences(reference, run_as, pairs, pixels, progress)
    if not differences:
        raise CheckFailedError(
            f"None of the {len(reference.graph.node)} nodes of the reference has a "
            f"counterpart of its name in the candidate ({len(candidate.graph.node)} "
            "nodes), so nothing was compared. Export the candidate from this bundle."
        )
    outputs = [differences.get(value.name) for value in reference.graph.output]
    nodes = tuple(records(reference, differences))
    return Divergence(
        reference="float32 graph",
        candidate=precision,
        bound=BOUNDS[precision] if bound is None else bound,
        images=len(pixels),
        nodes=nodes,
        unmatched=len(reference.graph.node) - len(pairs),
        output_error=max(np.inf if found is None else found.error for found in outputs),
        fused_error=fused_error(reference, candidate, pixels),
    )


def _differences(
    reference: onnx.ModelProto,
    candidate: onnx.ModelProto,
    pairs: list[tuple[onnx.NodeProto, onnx.NodeProto]],
    pixels: Pixels,
    progress: Progress,
) -> dict[str, TensorDifference]:
    """Return the differences of first outputs, by the tensor's name in the reference."""
    theirs = {ours.output[0]: other.output[0] for ours, other in pairs}
    found: dict[str, TensorDifference] = {}
    task = progress.add_task("Comparing nodes", total=len(theirs))
    for names in groups(reference, list(theirs), BATCH):
        others = [theirs[name] for name in names]
        ours = open_session(exposing(reference, names), fused=False)
        other = open_session(exposing(candidate, others), fused=False)
        for batch in batches(pixels):
            left, right = run(ours, names, batch), run(other, others, batch)
            for name in names:
                if left[name].dtype.kind == "f" or left[name].dtype == np.uint8:
                    difference = found.setdefault(name, TensorDifference())
                    difference.add(left[name], right[theirs[name]])
        progress.advance(task, len(names))
    return found


def batches(pixels: Pixels) -> Iterator[Pixels]:
    """Split images into batches of two."""
    for start in range(0, len(pixels), BATCH):
        yield pixels[start : start + BATCH]


def records(
    reference: onnx.ModelProto, differences: Mapping[str, TensorDifference]
) -> Iterator[NodeError]:
    """Yield every compared node with its error and that of its inputs.

    A node that was not compared passes on the largest error of its inputs.
    """
    errors: dict[str, float] = {}
    depth = 0
    for node in reference.graph.node:
        before = max((errors.get(name, 0.0) for name in node.input), default=0.0)
        difference = differences.get(node.output[0])
        after = before if difference is None else difference.error
        errors |= dict.fromkeys(node.output, after)
        if difference is not None:
            yield NodeError(
                depth=depth,
                name=node.name,
                op_type=node.op_type,
                module=module_of(node),
                error=difference.error,
                cosine=difference.cosine,
                input_error=before,
            )
            depth += 1


def fused_error(
    reference: onnx.ModelProto, candidate: onnx.ModelProto, pixels: Pixels
) -> float:
    """Return the largest error of an output with optimisations on, as it is served."""
    theirs = {value.name for value in candidate.graph.output}
    names = [value.name for value in reference.graph.output if value.name in theirs]
    ours = open_session(reference, fused=False)
    other = open_session(candidate, fused=True)
    differences = {name: TensorDifference() for name in names}
    for batch in batches(pixels):
        left, right = run(ours, names, batch), run(other, names, batch)
        for name in names:
            differences[name].add(left[name], right[name])
    return max((found.error for found in differences.values()), default=float("inf"))

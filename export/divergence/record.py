"""What a comparison along the graph found: every node's error, and the first too large."""

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict

from isogon.runtimes import Precision

# An error of which the inputs had less than this share is the node's own.
_OWN = 0.5


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


class NodeError(_Record):
    """How far one node's output is from the reference's, over all images together."""

    depth: int  # its place among the compared nodes, in graph order
    name: str
    op_type: str
    module: str  # torch module path; "" where the graph itself computes
    error: float  # ||reference - candidate|| / ||reference||; inf where not finite
    cosine: float  # nan where not finite
    input_error: float  # the largest error among what it reads

    @property
    def added(self) -> float:
        """The error this node brings in itself.

        Independent errors add in squares, so this is the root of the difference of
        squares; 0 where the inputs are no better than the output.
        """
        if not self.error > self.input_error:
            return 0.0
        if math.isinf(self.error):
            return math.inf
        return math.sqrt(self.error**2 - self.input_error**2)

    @property
    def begins_here(self) -> bool:
        """Whether more than half of the error is the node's own, not its inputs'."""
        return self.error > 0 and self.input_error <= _OWN * self.error

    def __str__(self) -> str:
        return f"{self.name} ({self.op_type}, {self.module or 'of no module'})"


class Divergence(_Record):
    """A candidate beside the reference, node by node.

    Beside eager torch the nodes are those in which a module ends.
    """

    reference: Literal["float32 graph", "eager torch"]
    candidate: Precision
    bound: float
    images: int
    nodes: tuple[NodeError, ...]  # those compared, in graph order
    unmatched: int  # nodes of the reference of which the candidate has no tensor
    output_error: float  # of the worst output; inf where it was not compared
    fused_error: float  # the same as ONNX Runtime serves it, its optimisations on

    @property
    def first(self) -> NodeError | None:
        """The first node whose error leaves the bound."""
        return next((node for node in self.nodes if not node.error <= self.bound), None)

    @property
    def largest_jump(self) -> NodeError:
        """The node that brings in most error itself; the first of several."""
        return max(self.nodes, key=lambda node: node.added)

    @property
    def only_when_fused(self) -> bool:
        """Whether nothing diverges until ONNX Runtime fuses nodes: its kernels differ."""
        return self.first is None and not self.fused_error <= self.bound

    def around_first(self, n: int = 3) -> tuple[NodeError, ...]:
        """Return the first diverging node with `n` before and `n` behind it.

        Without one: those around the largest jump.
        """
        centre = (self.first or self.largest_jump).depth
        return self.nodes[max(0, centre - n) : centre + n + 1]

    def __str__(self) -> str:
        compared = f"{len(self.nodes)} nodes on {self.images} images"
        if self.reference == "eager torch":
            compared += ", beside eager torch"
        first, jump = self.first, self.largest_jump
        if self.only_when_fused:
            return (
                f"No node leaves {self.bound:.3g} among {compared}, run one by one, but "
                f"the outputs do ({self.fused_error:.3g}) once ONNX Runtime fuses nodes: "
                "its optimised kernels differ, not the graph. Run it with another version."
            )
        if first is None and not jump.added:
            return f"No node differs at all among {compared}."
        if first is None:
            return (
                f"No node leaves {self.bound:.3g} among {compared}; the largest error "
                f"that one adds is {jump.added:.3g}, by {jump}."
            )
        told = f"{first} is the first whose error leaves {self.bound:.3g} among {compared}"
        told += f": {first.error:.3g}, its inputs are at {first.input_error:.3g}"
        if first.begins_here:
            told += ", so the error begins there."
        else:
            told += f", so it has gathered; {jump} adds most, {jump.added:.3g}."
        if self.output_error <= self.bound:
            told += f" It fades: the outputs are at {self.output_error:.3g}."
        elif self.fused_error <= self.bound:
            told += (
                f" The outputs are at {self.output_error:.3g}. ONNX Runtime hides it on "
                f"this CPU ({self.fused_error:.3g}): between its kernels it does not round "
                f"to {self.candidate}. Other machines do."
            )
        return told

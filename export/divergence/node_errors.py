"""The result of a comparison along the graph: every node's error, and a plot of them."""

import math
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from isogon.runtimes import Precision

# If the inputs have at most this share of the error, it begins at the node.
_OWN = 0.5
# Readable on a light and on a dark page; the background is transparent.
_INK, _LINE, _ALARM = "#808080", "#4a8fc7", "#d9534f"
_TICKS = 8
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9.0,
    "text.parse_math": False,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
}


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


class NodeError(_Record):
    """The error of one node's output, over all images together."""

    depth: int  # its position among the compared nodes, in graph order
    name: str
    op_type: str
    module: str  # torch module path; "" outside all modules
    error: float  # ||reference - candidate|| / ||reference||; inf if not finite
    cosine: float  # nan if not finite
    input_error: float  # the largest error of its inputs

    @property
    def added(self) -> float:
        """The error that this node itself adds.

        Independent errors add in squares, so this is the root of the difference of
        squares; 0 if the inputs' error is as large as the output's.
        """
        if not self.error > self.input_error:
            return 0.0
        if math.isinf(self.error):
            return math.inf
        return math.sqrt(self.error**2 - self.input_error**2)

    @property
    def begins_here(self) -> bool:
        """Whether the inputs' error is at most half of the output's."""
        return self.error > 0 and self.input_error <= _OWN * self.error

    def __str__(self) -> str:
        return f"{self.name} ({self.op_type}, {self.module or 'of no module'})"


class Divergence(_Record):
    """A candidate compared with the reference, node by node.

    Compared with eager torch, the nodes are the last ones of each module.
    """

    reference: Literal["float32 graph", "eager torch"]
    candidate: Precision
    bound: float
    images: int
    nodes: tuple[NodeError, ...]  # those compared, in graph order
    unmatched: int  # nodes of the reference that the candidate does not have
    output_error: float  # of the worst output; inf if an output was not compared
    fused_error: float  # the same with ONNX Runtime's optimisations on, as served

    @property
    def first(self) -> NodeError | None:
        """The first node whose error exceeds the bound."""
        return next((node for node in self.nodes if not node.error <= self.bound), None)

    @property
    def largest_jump(self) -> NodeError:
        """The node that itself adds most error; the first of equals."""
        return max(self.nodes, key=lambda node: node.added)

    @property
    def only_when_fused(self) -> bool:
        """Whether the outputs diverge only when ONNX Runtime fuses nodes."""
        return self.first is None and not self.fused_error <= self.bound

    def around_first(self, n: int = 3) -> tuple[NodeError, ...]:
        """Return the first diverging node with `n` nodes before and after it.

        If none diverges: the nodes around the largest jump.
        """
        centre = (self.first or self.largest_jump).depth
        return self.nodes[max(0, centre - n) : centre + n + 1]

    def __str__(self) -> str:
        compared = f"{len(self.nodes)} nodes on {self.images} images"
        if self.reference == "eager torch":
            compared += ", against eager torch"
        first, jump = self.first, self.largest_jump
        if self.only_when_fused:
            return (
                f"No node exceeds {self.bound:.3g} among {compared}, run one by one, but "
                f"the outputs do ({self.fused_error:.3g}) when ONNX Runtime fuses nodes: "
                "its optimised kernels differ, not the graph. Run it with another version."
            )
        if first is None and not jump.added:
            return f"No node differs among {compared}."
        if first is None:
            return (
                f"No node exceeds {self.bound:.3g} among {compared}; the largest error "
                f"that one node adds is {jump.added:.3g}, by {jump}."
            )
        told = f"{first} is the first whose error exceeds {self.bound:.3g} among {compared}"
        told += f": {first.error:.3g}, its inputs have {first.input_error:.3g}"
        if first.begins_here:
            told += ", so the error begins there."
        else:
            told += f", so it has accumulated; {jump} adds most, {jump.added:.3g}."
        if self.output_error <= self.bound:
            told += f" It fades: the outputs have {self.output_error:.3g}."
        elif self.fused_error <= self.bound:
            told += (
                f" The outputs have {self.output_error:.3g}. ONNX Runtime hides it on "
                f"this CPU ({self.fused_error:.3g}): between its kernels it does not round "
                f"to {self.candidate}. Other machines do."
            )
        return told


def draw(divergence: Divergence, path: Path) -> None:
    """Write a plot of error by depth; the file's suffix decides: `.png` or `.svg`.

    The error axis is logarithmic; nodes without error are left out. A cross at the
    upper edge is an output that is not finite.
    """
    from matplotlib import rc_context  # takes a second to import, rarely needed
    from matplotlib.figure import Figure

    nodes = divergence.nodes
    finite = [node for node in nodes if 0 < node.error < math.inf]
    broken = [node for node in nodes if math.isinf(node.error)]
    with rc_context(_STYLE):
        figure = Figure(figsize=(9.0, 4.2), layout="constrained", dpi=160)
        axes = figure.add_subplot()
        axes.set_yscale("log")
        seen = [divergence.bound, *(node.error for node in finite)]
        lowest, highest = min(seen) / 3, max(seen) * 10
        axes.plot(
            [node.depth for node in finite], [node.error for node in finite], "o-",
            color=_LINE, markersize=2.2, linewidth=0.6,
        )  # fmt: skip
        axes.plot(
            [node.depth for node in broken], [highest] * len(broken), "x",
            color=_ALARM, markersize=4, clip_on=False,
        )  # fmt: skip
        axes.axhline(divergence.bound, color=_INK, linewidth=1, dashes=(4, 3))
        axes.annotate(
            f"bound {divergence.bound:.3g}", (0, divergence.bound),
            xycoords=axes.get_yaxis_transform(), xytext=(3, 2),
            textcoords="offset points", ha="left", va="bottom",
        )  # fmt: skip
        if divergence.first is not None:
            _point_at(axes, divergence.first, highest, len(nodes))
        _name_depths(axes, nodes)
        axes.yaxis.set_major_formatter(lambda error, _: f"{error:.0e}")
        axes.set(
            xlim=(-1, len(nodes)), ylim=(lowest, highest), ylabel="relative error",
            xlabel=f"{len(nodes)} nodes in graph order",
        )  # fmt: skip
        figure.savefig(path, transparent=True)


def _point_at(axes: Any, first: NodeError, highest: float, count: int) -> None:
    height = min(first.error, highest)
    on_the_left = first.depth < count / 2
    axes.plot([first.depth], [height], "o", color=_ALARM, markersize=5, clip_on=False)
    axes.axvline(first.depth, color=_ALARM, linewidth=0.7)
    value = "not finite" if math.isinf(first.error) else f"{first.error:.3g}"
    axes.annotate(
        f"{first.module or 'of no module'}\n{first.name} ({first.op_type}): {value}",
        (first.depth, 0), xycoords=axes.get_xaxis_transform(),
        xytext=(5 if on_the_left else -5, 5), textcoords="offset points",
        ha="left" if on_the_left else "right", va="bottom", color=_ALARM,
    )  # fmt: skip


def _name_depths(axes: Any, nodes: tuple[NodeError, ...]) -> None:
    """Label a few depths with the module that computes there."""
    step = max(1, math.ceil(len(nodes) / _TICKS))
    shown = nodes[::step]
    labels = [_short(node.module) or node.op_type for node in shown]
    axes.set_xticks([node.depth for node in shown], labels, rotation=20, ha="right", size=7)


def _short(module: str) -> str:
    for prefix in ("student.", "backbone.", "model.", "network."):
        module = module.removeprefix(prefix)
    return module

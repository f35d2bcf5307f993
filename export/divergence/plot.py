"""The error of every node by its depth in the graph, as a figure."""

import math
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from export.divergence.record import Divergence, NodeError

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


def draw(divergence: Divergence, path: Path) -> None:
    """Write the plot of error by depth; the ending decides: `.png` or `.svg`.

    The errors' axis is logarithmic; nodes without any error are left out. A cross at
    the upper edge is an output that is not finite.
    """
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


def _point_at(axes: Axes, first: NodeError, highest: float, count: int) -> None:
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


def _name_depths(axes: Axes, nodes: tuple[NodeError, ...]) -> None:
    """Label a few depths with the module that computes there."""
    step = max(1, math.ceil(len(nodes) / _TICKS))
    shown = nodes[::step]
    labels = [_short(node.module) or node.op_type for node in shown]
    axes.set_xticks([node.depth for node in shown], labels, rotation=20, ha="right", size=7)


def _short(module: str) -> str:
    for prefix in ("student.", "backbone.", "model.", "network."):
        module = module.removeprefix(prefix)
    return module

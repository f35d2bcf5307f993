"""Draw the charts of the documentation from the results: `python benchmarks/charts.py`.

The figures come from the pages and the JSON in benchmarks/results, none from here. Each
picture has them in its description too, which a test compares with the results. The
pictures have light and dark colours.
"""

import io
import json
import re
from collections.abc import Callable, Iterator

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tables import CHAIN, ROOT, measured

COURSE = ROOT / "benchmarks/results/chain-course.json"
SERVING = ROOT / "benchmarks/results/serving-cpu.md"
PICTURES = ROOT / "docs/pictures"
_SET = "tiny-64"
_INK = "#123456"  # becomes the colour of the text around the picture
_STYLE = """<style>
svg { color: #24292f; font-family: system-ui, sans-serif }
@media (prefers-color-scheme: dark) { svg { color: #e6edf3 } }
</style>"""
# Readable on white and on black.
_ORANGE, _BLUE, _GREEN, _GREY = "#d9730d", "#3b82f6", "#2f9e44", "#8a8f98"
_RUNTIMES = {
    "torch": _GREY,
    "ONNX Runtime": _BLUE,
    "OpenVINO": _GREEN,
    "ONNX Runtime, over HTTP": _ORANGE,
}
_MARKERS = {"fp32": "o", "fp16": "s", "int8": "^", "teacher": "D", "undistilled": "X"}

Point = tuple[str, float, float]
Chart = tuple[Figure, str]  # the drawing, and its figures in words


def points_of_the_course() -> list[tuple[int, float, float]]:
    """Return step, overlap@10 and angle distortion of the chain's student."""
    found = json.loads(COURSE.read_text(encoding="utf-8"))[_SET]["validated"]
    return [(int(step), overlap, distortion) for step, overlap, distortion in found]


def course() -> Chart:
    """Return the chart of angle distortion and overlap by training step."""
    points = points_of_the_course()
    steps = [step for step, _, _ in points]
    plot = Figure(figsize=(8, 3), layout="constrained")
    panels = plot.subplots(1, 2)
    named = (
        ("angle distortion (less is better)", [one[2] for one in points], _BLUE),
        ("overlap@10 (more is better)", [one[1] for one in points], _ORANGE),
    )
    for axes, (title, values, colour) in zip(panels, named, strict=True):
        axes.plot(steps, values, color=colour, marker="o", markersize=4)
        axes.set(xlabel="training step", title=title)
        axes.set_ylim(0, 1.1 * max(values))
        _plain(axes)
    told = "; ".join(
        f"step {step}: {distortion:.3f}, {overlap:.3f}"
        for step, overlap, distortion in points
    )
    return plot, f"Distortion and overlap@10 on validation images. {told}"


def points_of_the_chain() -> list[Point]:
    """Return each station of the chain with milliseconds and kNN accuracy."""
    return [
        (what, float(taken), float(right))
        for what, taken, right in measured(CHAIN, _SET, ("ms", "kNN ↑"))
    ]


def latency() -> Chart:
    """Return the chart of accuracy against the time of an image alone."""
    points = points_of_the_chain()
    plot = Figure(figsize=(8, 3.6), layout="constrained")
    axes = plot.subplots()
    for what, taken, right in points:
        runtime, form = _runtime_of(what), _form_of(what)
        axes.plot(
            taken, right, _MARKERS[form], color=_RUNTIMES[runtime], markersize=9,
            linestyle="none", label=f"{form}, {runtime}", alpha=0.85,
        )  # fmt: skip
    axes.set_xscale("log")
    ticks = (0.5, 1, 2, 5, 10)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set(xlabel="milliseconds of one image, all threads", ylabel="kNN accuracy")
    plot.legend(loc="outside right center", frameon=False, fontsize=9)
    _plain(axes)
    told = "; ".join(f"{what}: {taken:g} ms, {right:g}" for what, taken, right in points)
    return plot, f"Tiny ImageNet. {told}"


def throughputs() -> dict[str, list[tuple[str, float]]]:
    """Return images per second of each server, by the model that is served."""
    sections = re.findall(r"^## (.+)$", SERVING.read_text(encoding="utf-8"), re.MULTILINE)
    return {
        section: [
            (what, float(value))
            for what, value in measured(
                SERVING, section, ("16 x 1",), part="Images per second"
            )
            if value
        ]
        for section in sections
    }


def peers() -> Chart:
    """Return the chart of the service's throughput beside others'."""
    found = throughputs()
    plot = Figure(figsize=(8, 2.9), layout="constrained")
    for axes, (section, rows) in zip(
        plot.subplots(1, len(found)), found.items(), strict=True
    ):
        rows = sorted(rows, key=lambda row: row[1])
        colours = {"Isogon": _BLUE, "in process": _GREY}
        bars = axes.barh(
            [what for what, _ in rows],
            [value for _, value in rows],
            color=[colours.get(what, _ORANGE) for what, _ in rows],
        )
        axes.bar_label(bars, fmt="%.0f", padding=3, color=_INK, fontsize=9)
        axes.set_title(section.rpartition(", width")[0], fontsize=10)
        axes.set(xlabel="images per second")
        axes.margins(x=0.15)
        _plain(axes)
    told = ". ".join(
        f"{section}: " + "; ".join(f"{what}: {value:.0f}" for what, value in rows)
        for section, rows in found.items()
    )
    return plot, f"Single images, 16 requests under way. {told}"


CHARTS: dict[str, Callable[[], Chart]] = {
    "course": course,
    "latency": latency,
    "peers": peers,
}


def drawn() -> Iterator[tuple[str, str]]:
    """Yield the name and the SVG of each chart."""
    inked = dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"),
        _INK,
    )
    for name, chart in CHARTS.items():
        with rc_context({"svg.fonttype": "none", "svg.hashsalt": name} | inked):
            figure, told = chart()
            file = io.StringIO()
            figure.savefig(
                file, format="svg", transparent=True,
                metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
            )  # fmt: skip
        text = file.getvalue().replace(_INK, "currentColor")
        text = re.sub(r"font: ([\d.]+)px [^;\"]+", r"font-size: \1px", text)
        described = f"<desc>{told}; drawn by benchmarks/charts.py.</desc>\n{_STYLE}"
        _, svg, rest = re.split(r"(<svg[^>]*>)", text, maxsplit=1)
        yield name, "\n".join((svg, described, rest.lstrip()))


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def _runtime_of(station: str) -> str:
    if not station.startswith("onnx/"):
        return "torch"
    if "HTTP" in station:
        return "ONNX Runtime, over HTTP"
    return "OpenVINO" if station.endswith("@openvino") else "ONNX Runtime"


def _form_of(station: str) -> str:
    found = re.search(r"\.(fp16|int8)\.onnx", station)
    if found is not None:
        return found[1]
    return "fp32" if station.startswith("onnx/") else station


if __name__ == "__main__":
    PICTURES.mkdir(exist_ok=True)
    for name, svg in drawn():
        (PICTURES / f"{name}.svg").write_text(svg, encoding="utf-8")

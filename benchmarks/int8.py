r"""Int8 before and after fine-tuning, on finished bundles and on families of timm.

    GOMP_SPINCOUNT=3000 python benchmarks/int8.py --bundle quickstart.isogon \
        --bundle photos.isogon --images photographs.tar > benchmarks/results/int8.md

A bundle has its own images. A family of `families.py` (`--model NAME`) has trained weights
if a package contains them, otherwise `lively` ones, and uses `--images`. Before and after
are the gate's figures with no node kept in float32, so the repair does not count. A row is
printed to stderr when it is done.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import onnx
from conditions import conditions
from families import COMPARED, FAMILIES, WIDTH
from rich.progress import Progress
from students import deployed, photographs

from export import FINETUNING_STEPS, ExportPlan
from export.deployed import DeployedFunction
from export.finetuning import finetuned
from export.gate import Gate
from export.onnx import float32_model, observe, quantised
from isogon.bundle import Bundle
from isogon.networks import preprocessing_of
from isogon.parity import ParityReport

_HEADER = (
    "| student | pixels | images | before: cos least / mean, nn, decisions | after | "
    "minutes |\n|---|---|---|---|---|---|"
)
_QUIET = Progress(disable=True)


def named(
    options: argparse.Namespace, folder: Path
) -> Iterator[tuple[str, DeployedFunction]]:
    """Yield the students to measure, with their names."""
    for path in options.bundle:
        bundle = Bundle.open(path)
        yield (
            f"{bundle.manifest.student.architecture}, {path.stem}",
            DeployedFunction.of(bundle),
        )
    for _, name, size, checkpoint in FAMILIES:
        if name in options.model:
            photos = photographs(
                options.images,
                preprocessing_of(name, size, 1.0),
                folder,
                compared=COMPARED,
            )
            kind = "lively" if checkpoint is None else "trained"
            yield f"{name}, {kind}", deployed(name, size, checkpoint, photos, width=WIDTH)


def row(name: str, subject: DeployedFunction, steps: int, folder: Path) -> str:
    """Quantise, fine-tune and judge one student; return its line of the table."""
    gate = Gate.of(subject, ExportPlan(), _QUIET)
    model = float32_model(subject.graph, subject.preprocessing, _QUIET)
    samples = subject.samples()
    observed = observe(model, samples)
    file = folder / "model.onnx"

    def judged(weights: onnx.ModelProto, *, correct: bool) -> ParityReport:
        made = quantised(weights, observed, correct=correct)
        return gate.judge(gate.try_model(made, file, file.name, "int8"))

    before = judged(model, correct=True)
    start = time.monotonic()
    tuned = finetuned(model, observed, samples, steps=steps)
    minutes = (time.monotonic() - start) / 60
    after = judged(tuned, correct=False)
    return (
        f"| {name} | {subject.preprocessing.height} | {len(samples)} | {entry(before)} | "
        f"{entry(after)} | {minutes:.1f} |"
    )


def entry(report: ParityReport) -> str:
    """Return the table's cell for one int8 file."""
    seen = report.figures
    return (
        f"{'ok' if report else '**fails**'} {seen.min_cosine:.4f} / "
        f"{seen.mean_cosine:.4f}, {seen.neighbour_agreement:.3f}, "
        f"{seen.decision_agreement:.3f}"
    )


def main() -> None:
    """Measure each and print the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, action="append", default=[])
    parser.add_argument("--model", action="append", default=[], help="of families.py")
    parser.add_argument("--images", help="for --model, as in [data]")
    parser.add_argument("--steps", type=int, default=FINETUNING_STEPS)
    options = parser.parse_args()
    unknown = set(options.model) - {name for _, name, _, _ in FAMILIES}
    if unknown:
        parser.error(f"families.py has no {', '.join(sorted(unknown))}")
    heading = conditions("onnxruntime-gpu")
    lines = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for student, subject in named(options, folder):
            lines.append(row(student, subject, options.steps, folder))
            print(lines[-1], file=sys.stderr, flush=True)
    print(
        f"# Int8, before and after fine-tuning\n\n{heading}\n\n{options.steps} steps on "
        f"the number of images in the table, ONNX Runtime's encoding, no node kept in "
        f"float32, judged on other images by `isogon/parity/tolerance.py`: the least "
        f"cosine with float32 must be 0.99.\n\n{_HEADER}\n" + "\n".join(lines)
    )


if __name__ == "__main__":
    main()

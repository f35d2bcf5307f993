r"""The whole chain on a set of images, and what is left of the student at every station.

    GOMP_SPINCOUNT=3000 python benchmarks/chain.py --sets tiny-64 \
        > benchmarks/results/chain-cpu.md

A student is distilled with the defaults, exported in float32, float16 and int8 (with
fine-tuning), and served. Every station answers the same images by the product's own door:
`isogon.load(...).embed(...)` for a file, the Python client for the service. The figures
are those of `defaults.py`; beside them the size of what is deployed, how long an image
takes alone (the median of many, all threads) and the share of test images that are
flagged as out of distribution where 0.05 was asked for.

A bundle that is there is not made again: `--runs` holds `chain-SET.isogon`. `--course`
writes the figures of the students' validation images by step, as JSON.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
from conditions import conditions
from one_trial import RoleEmbeddings, embedded, judged, network, teachers, undistilled
from trials import (
    FIGURES,
    STUDENT,
    TEACHER,
    Figures,
    Ground,
    Trial,
    add_choices,
    parsed,
    parser_of,
)

import isogon
from distill.images.data import Data, prepare_data
from isogon.bundle import Bundle, artifact_names, vouched_artifact
from isogon.bundle.evaluation import EVALUATION, Evaluation
from isogon.progress import Silent
from serving import running_service
from serving.client import IsogonClient

_FINETUNED_ON = 2048  # training images, as `isogon distill --int8` takes
_SENT = 64  # images in a request, and in a call of `embed`
_SECONDS = 2.0  # for which one image after another is timed
_COLUMNS = ("", "MB", "ms", *FIGURES.values(), "false alarms (0.05 asked)")
_BLANK = ("distortion", "overlap")  # of the teacher, which they are measured against

# From images' files to unit-norm embeddings [n, d] and which are flagged [n].
Answers = Callable[[Sequence[Path]], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Station:
    """What one station of the chain gives."""

    name: str
    figures: Figures
    megabytes: float | None = None
    milliseconds: float | None = None
    false_alarms: float | None = None

    def __str__(self) -> str:
        blank = _BLANK if self.name == "teacher" else ()
        cells = [
            self.name,
            _cell(self.megabytes, 1),
            _cell(self.milliseconds, 2),
            *(
                "" if name in blank else _cell(getattr(self.figures, name), 3)
                for name in FIGURES
            ),
            _cell(self.false_alarms, 3),
        ]
        return f"| {' | '.join(cells)} |"


def _cell(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def bundle_of(trial: Trial, data: Data, ground: Ground) -> Bundle:
    """Return the set's bundle, distilled and exported unless it is there."""
    path = ground.runs / f"chain-{trial.place}.isogon"
    if not path.exists():
        isogon.distill(ground.recipe(trial), output=path)
    bundle = Bundle.open(path)
    if not any("int8" in name for name in artifact_names(bundle)):
        chosen = data.training[:: max(1, len(data.training) // _FINETUNED_ON)]
        listed = ground.runs / f"chain-{trial.place}.csv"
        names = [str(data.familiar.file(index)) for index in chosen[:_FINETUNED_ON]]
        listed.write_text("\n".join(["path", *names]), encoding="utf-8")
        made = isogon.export(
            bundle,
            fp16=True,
            int8=True,
            finetune_on=listed,
            runtimes=["openvino"],
            check=False,
        )
        for rejected in made.rejected:
            print(rejected.advice, file=sys.stderr)
    return Bundle.open(path)


def answered(answers: Answers, data: Data) -> tuple[RoleEmbeddings, float]:
    """Return a station's embeddings by role, and the share of flagged test images."""
    bank, _ = answers([data.familiar.file(index) for index in data.bank])
    test, flagged = answers([data.held_out.file(index) for index in data.split.test])
    unfamiliar = {
        name: answers([each.images.file(index) for index in each.flaggable])[0]
        for name, each in data.unfamiliar.items()
    }
    return RoleEmbeddings(bank=bank, test=test, unfamiliar=unfamiliar), float(
        flagged.mean()
    )


def in_requests(answers: Answers) -> Answers:
    """Return the same, some images at a time."""

    def all_of(paths: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
        parts = [
            answers(paths[start : start + _SENT]) for start in range(0, len(paths), _SENT)
        ]
        embeddings, flagged = zip(*parts, strict=True)
        return np.concatenate(embeddings), np.concatenate(flagged)

    return all_of


def milliseconds(run: Callable[[], object]) -> float:
    """Return the median time of one run."""
    run()
    taken: list[float] = []
    while sum(taken) < _SECONDS:
        begun = time.perf_counter()
        run()
        taken.append(time.perf_counter() - begun)
    return 1000 * statistics.median(taken)


def stations(place: str, ground: Ground) -> Iterator[Station]:
    """Yield what each station of a set gives."""
    trial = Trial(row="student", place=place)
    data = prepare_data(ground.recipe(trial), Silent(), ground.runs)
    theirs = teachers(trial, data, ground, Silent())
    yield _eager("teacher", TEACHER, ground.teacher_size, judged(data, theirs, theirs))
    ours = embedded(
        network(STUDENT, trial.size), STUDENT[0], trial.size, data, ground, Silent()
    )
    figures = judged(data, theirs, undistilled(ours, ground.width))
    yield _eager("undistilled", STUDENT, trial.size, figures)

    bundle = bundle_of(trial, data, ground)
    for name in artifact_names(bundle):
        model = isogon.load(bundle.path, artifact=name)

        def answers(
            paths: Sequence[Path], model: isogon.Model = model
        ) -> tuple[np.ndarray, np.ndarray]:
            found = model.embed(paths)
            return found.embeddings, found.is_ood

        one = data.held_out.pixels(
            data.split.test[:1], bundle.manifest.preprocessing, Silent()
        )
        mine, flagged = answered(in_requests(answers), data)
        yield Station(
            name=name,
            figures=judged(data, theirs, mine),
            megabytes=vouched_artifact(bundle, name).path.stat().st_size / 1e6,
            milliseconds=milliseconds(lambda one=one, model=model: model.of_pixels(one)),
            false_alarms=flagged,
        )
    with (
        running_service(bundle.path, ground.runs / "chain-service.log") as url,
        IsogonClient(url) as client,
    ):

        def asked(paths: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
            found = client.embed(paths)
            return found.embeddings, found.is_ood

        mine, flagged = answered(in_requests(asked), data)
        path = data.held_out.file(data.split.test[0])
        yield Station(
            name="onnx/model.onnx, served over HTTP",
            figures=judged(data, theirs, mine),
            milliseconds=milliseconds(lambda: client.embed([path])),
            false_alarms=flagged,
        )


def courses(made: dict[str, Bundle], told: str) -> str:
    """Return the course of each set's student by step, as JSON.

    Args:
        made: the bundles, by set.
        told: command, machine and versions.
    """
    found: dict[str, object] = {"conditions": told}
    for place, bundle in made.items():
        training = bundle.record(EVALUATION, Evaluation).training
        found[place] = {
            "columns": ["step", "overlap@10", "angle distortion"],
            "validated": training.validated,
        }
    return json.dumps(found) + "\n"


def _eager(name: str, model: tuple[str, str], size: int, figures: Figures) -> Station:
    """Return the station of a network of timm, timed in eager torch."""
    run = network(model, size)
    pixels = torch.zeros(1, size, size, 3, dtype=torch.uint8)
    with torch.inference_mode():
        taken = milliseconds(lambda: run(pixels))
    headless = timm.create_model(model[0], num_classes=0)  # as it embeds: no classifier
    weights = sum(each.numel() for each in headless.parameters())
    return Station(
        name=name, figures=figures, megabytes=4 * weights / 1e6, milliseconds=taken
    )


def main() -> None:
    """Make what is missing and print a table for each set."""
    parser = parser_of(__doc__)
    add_choices(parser, ("tiny-64",))
    parser.add_argument("--course", type=Path, help="a file, for the course by step")
    options, ground = parsed(parser)
    told = conditions("onnxruntime-gpu", "openvino")
    print(
        f"# The chain, station by station\n\n{told}\n\nTeacher {TEACHER[0]} at "
        f"{ground.teacher_size} pixels, student {STUDENT[0]}, {ground.width} wide, at the "
        f"pixels of the heading, both in eager torch where nothing else is said; "
        f"artifacts by ONNX Runtime, or the runtime behind the `@`."
    )
    for place in options.sets:
        print(f"\n## {place}\n\n| {' | '.join(_COLUMNS)} |\n{'|---' * len(_COLUMNS)}|")
        for station in stations(place, ground):
            print(station, flush=True)
    if options.course is not None:
        made = {
            place: Bundle.open(ground.runs / f"chain-{place}.isogon")
            for place in options.sets
        }
        options.course.write_text(courses(made, told), encoding="utf-8")


if __name__ == "__main__":
    main()

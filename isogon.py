"""The command line: the one module that knows every stage.

Results go to stdout, progress to stderr. Exit status: 0 done, 1 a check failed, 2 wrong
usage or a bad bundle. A stage is imported inside its command, so that `--help` is
instant and `serve` never loads torch.
"""

import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.progress import Progress

import console

if TYPE_CHECKING:
    from bundle import Bundle, ParityReport
    from distill import Recipe
    from distill.evaluation import Evaluation, Kind

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="""Distil a vision model into a small student that keeps its angles, export it
with proof, and serve embeddings with calibrated out-of-distribution (OOD) scores.

Start with `isogon quickstart`. Everything a run makes is one directory, the *bundle*:
`distill` makes it, `export` and `calibrate` add to it, `serve` answers from it.""",
)

BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's directory.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]


@app.command()
def quickstart(
    images: Annotated[
        Path | None,
        typer.Option(
            help="A folder of your own images, with or without class folders. "
            "Without it: handwritten digits from scikit-learn.",
            show_default=False,
        ),
    ] = None,
    unfamiliar: Annotated[
        Path | None,
        typer.Option(
            help="Images the OOD score should flag. Without it: photographs and "
            "textures from scikit-image and scikit-learn.",
            show_default=False,
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[:CHECKPOINT]",
            help="Any timm model, with timm's weights or those of a file. Without it: "
            "EfficientNet-Lite0 with ImageNet weights from a package.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option(help="The bundle to make, or to take up again.")
    ] = Path("quickstart.isogon"),
    size: Annotated[int, typer.Option(help="Image size in pixels.", min=32)] = 96,
    epochs: Annotated[
        int | None,
        typer.Option(
            help="Passes over the images. Without it: about 900 steps.",
            min=1,
            show_default=False,
        ),
    ] = None,
) -> None:
    """The whole chain on real images, in minutes: distil, export, calibrate, serve.

    Run it again and what is done already is kept: `isogon quickstart` continues an
    interrupted run, and only measures and serves a finished one.
    """
    from bundle import Bundle
    from distill import TEACHER, example_images, quickstart_recipe

    with console.progress() as progress:
        if images is None or unfamiliar is None:
            samples = _sample_images(progress)
        recipe = quickstart_recipe(
            images or samples[0],
            unfamiliar or samples[1],
            teacher=teacher or TEACHER,
            size=size,
            epochs=epochs,
        )
        if output.exists():
            bundle = _made_by(recipe, Bundle.open(output, rewriting=["export"]))
        else:
            bundle = _distilled(recipe, output, progress)
        report = _exported(bundle, progress)
        latencies = _latencies(bundle, progress)
        examples = example_images(recipe, progress)
        answers = _asked_over_http(bundle, examples, progress)
    console.quickstart(
        bundle,
        report,
        _evaluation(bundle),
        latencies=latencies,
        examples=examples,
        answers=answers,
    )


@app.command()
def distill(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A TOML file.")],
    output: Annotated[
        Path | None,
        typer.Option(help="The bundle to make. [default: NAME.isogon]"),
    ] = None,
    accept_changes: Annotated[
        bool,
        typer.Option(
            help="Continue an interrupted run although its learning rate, length, "
            "clipping or precision was another."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Teach a student what a teacher knows of a folder of images, and evaluate it.

    RECIPE says which teacher, student and images; `recipes/` has examples. A run that
    was interrupted, or even killed, continues from its last checkpoint when started
    again. OUTPUT.work holds metrics.jsonl, and curves for `tensorboard --logdir`.
    """
    from distill import recipe_from_toml

    parsed = recipe_from_toml(recipe)
    with console.progress() as progress:
        path = output or Path(f"{parsed.name}.isogon")
        bundle = _distilled(parsed, path, progress, accept_changes=accept_changes)
    if as_json:
        console.as_json(_evaluation(bundle).model_dump(mode="json"))
    else:
        following = f"isogon evaluate {bundle.path}, or isogon export {bundle.path}"
        console.evaluation(bundle.path, _evaluation(bundle), following=following)


@app.command()
def evaluate(
    bundle: BundlePath,
    images: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Where the familiar images are now. Without it: where the recipe says.",
            show_default=False,
        ),
    ] = None,
    test: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Where the images to test on are, if they are a source of their own.",
            show_default=False,
        ),
    ] = None,
    unfamiliar: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:near|far]=SOURCE",
            help="Where a set of unfamiliar images is; a new name adds a set. May be "
            "given several times.",
            show_default=False,
        ),
    ] = None,
    teacher: Annotated[
        bool,
        typer.Option(
            help="Evaluate the teacher beside the student. Without its weights: "
            "--no-teacher, which leaves out fidelity too."
        ),
    ] = True,
    corruptions: Annotated[
        bool,
        typer.Option(help="Measure accuracy under the 15 common corruptions."),
    ] = True,
    severity: Annotated[
        Literal["1", "2", "3", "4", "5", "all"],
        typer.Option(help="How strong the corruptions are; `all` takes the mean of 1-5."),
    ] = "3",
    corrupted_images: Annotated[
        int, typer.Option(help="How many test images to corrupt, at most.", min=1)
    ] = 500,
    as_json: AsJson = False,
) -> None:
    """Measure again what the student kept: angles, accuracy, OOD detection, robustness.

    The recipe inside the bundle says which images and which teacher; images that have
    moved since are named here, by a SOURCE as in a recipe: a folder for example. Test
    images are those that took no part in training.
    The bundle's `evaluation.json` and `report.html` are replaced, nothing else is.

    Angle distortion is the mean |cos student - cos teacher| over pairs of images (0 is
    perfect), overlap@10 the share of the teacher's ten nearest neighbours that are kept.
    Near and far say how unlike the familiar images an unfamiliar set is.
    """
    from bundle import Bundle

    opened = Bundle.open(bundle, rewriting=["evaluate"])
    sets = dict(map(_named_set, unfamiliar or []))
    with console.progress() as progress:
        with console.loading(progress):
            from distill.evaluation.corruptions import CorruptionChoice
            from distill.evaluation.reevaluation import Moved, reevaluate
        severities = tuple(range(1, 6)) if severity == "all" else (int(severity),)
        choice = CorruptionChoice(images=corrupted_images, severities=severities)
        found = reevaluate(
            opened,
            progress,
            moved=Moved(images=images, test=test, unfamiliar=sets),
            with_teacher=teacher,
            corruptions=choice if corruptions else None,
        )
    if as_json:
        console.as_json(found.model_dump(mode="json"))
    else:
        console.evaluation(bundle, found, following=f"isogon compare {bundle} OTHER")


@app.command()
def compare(
    bundles: Annotated[
        list[Path], typer.Argument(metavar="BUNDLE...", help="Bundles' directories.")
    ],
    as_json: AsJson = False,
) -> None:
    """Put the students of several bundles side by side; the best figures are bold.

    AUROC and FPR95 (with unfamiliar images as positive) are of each bundle's own
    detector, as the mean over the near and the far sets. A warning says when bundles
    were not evaluated on the same images: then run `isogon evaluate` on each with the
    same --images, --test and --unfamiliar.
    """
    from bundle import Bundle
    from distill.evaluation.comparison import compared, unfair

    subjects = {}
    for path in bundles:
        opened = Bundle.open(path)
        subjects[str(path)] = (opened.manifest, _evaluation(opened))
    reasons = unfair(subjects)
    for reason in reasons:
        console.note(f"Careful: {reason}")
    if as_json:
        console.as_json(
            {
                "bundles": list(subjects),
                "figures": {
                    figure.name: {
                        "better": figure.better,
                        "best": figure.best,
                        "values": figure.values,
                        "intervals": {
                            name: [one.low, one.high]
                            for name, one in figure.intervals.items()
                        },
                    }
                    for figure in compared(subjects)
                },
                "warnings": reasons,
            }
        )
    else:
        console.comparison(subjects)


@app.command()
def export(
    bundle: BundlePath,
    images: Annotated[
        Path | None,
        typer.Option(
            help="More real images to compare on, beside the bundle's own.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write ONNX with normalisation and OOD detector inside; gate it by parity.

    The file is compared with eager float32 torch on real images at batch sizes 1, 2
    and 7. It enters the bundle only if every bound holds; otherwise the exit status
    is 1 and the bundle stays as it was.
    """
    from bundle import Bundle, ImageFolder

    opened = Bundle.open(bundle, rewriting=["export"])
    with console.progress() as progress:
        with console.loading(progress):
            from export import export_onnx
        extra = None
        if images is not None:
            folder = ImageFolder.list(images)
            usable = folder.readable(progress)
            extra = folder.pixels(usable, opened.manifest.preprocessing, progress)
        report = export_onnx(opened, progress, extra=extra)
    _report(report, as_json)


@app.command()
def verify(bundle: BundlePath, as_json: AsJson = False) -> None:
    """Check every hash and repeat every parity claim, on this machine.

    Run it after moving a bundle, or after upgrading Isogon, torch or ONNX Runtime.
    """
    from bundle import Bundle

    opened = Bundle.open(bundle)
    with console.progress() as progress:
        with console.loading(progress):
            from export import verify as run
        report = run(opened, progress)
    _report(report, as_json)


@app.command()
def calibrate(
    bundle: BundlePath,
    images: Annotated[
        Path, typer.Option(help="A folder of images that are familiar at the site.")
    ],
    detector: Annotated[
        Literal[
            "knn",
            "mahalanobis",
            "relative_mahalanobis",
            "residual",
            "vim",
            "msp",
            "max_logit",
            "energy",
            "gen",
            "she",
            "nnguide",
        ]
        | None,
        typer.Option(
            help="Without it: the recipe's. All but knn, mahalanobis and residual need "
            "the images in folders by class.",
            show_default=False,
        ),
    ] = None,
    k: Annotated[
        int | None,
        typer.Option(
            help="Which neighbour counts (knn), or how many do (nnguide).",
            min=1,
            show_default=False,
        ),
    ] = None,
    dim: Annotated[
        int | None,
        typer.Option(
            help="Dimension of the principal subspace (residual, vim). Without it: half "
            "the embedding's width.",
            min=1,
            show_default=False,
        ),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(
            help="False-alarm rate: the share of familiar images that may be flagged.",
            min=1e-4,
            max=0.5,
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Refit the OOD detector on the images of the place where the model will run.

    Most of them become the detector's bank; the rest, unseen by it, calibrate the
    p-values. The artifact is exported again with the new detector, and gated.
    """
    from bundle import Bundle

    opened = Bundle.open(bundle, rewriting=["calibrate", "export"])
    asked = {"name": detector, "k": k, "dim": dim, "alpha": alpha}
    given: dict[str, Any] = {
        key: value for key, value in asked.items() if value is not None
    }
    with console.progress() as progress:
        with console.loading(progress):
            from export import TRAINING_DETECTOR, calibrate as run, detector_spec
        spec = detector_spec(opened, TRAINING_DETECTOR)
        if detector not in (None, spec.name):  # k and dim are another's
            given = {"k": None, "dim": None} | given
        spec = spec.model_copy(update=given)
        report = run(opened, images, progress, spec=spec)
    _report(report, as_json)


@app.command()
def inspect(bundle: BundlePath, as_json: AsJson = False) -> None:
    """Show what a bundle holds and where it came from; every hash is checked."""
    from bundle import Bundle, ParityReport

    opened = Bundle.open(bundle)
    names = [name for name in opened.manifest.files if name.startswith("parity/")]
    reports = [opened.record(name, ParityReport) for name in names]
    if as_json:
        document = {
            "manifest": opened.manifest.model_dump(mode="json"),
            "evaluation": _evaluation(opened).model_dump(mode="json"),
            "parity": [report.model_dump(mode="json") for report in reports],
        }
        console.as_json(document)
    else:
        console.inspection(opened, _evaluation(opened), reports)


@app.command()
def serve(
    bundle: BundlePath,
    port: Annotated[int, typer.Option(help="TCP port.", min=1, max=65535)] = 3000,
    host: Annotated[
        str, typer.Option(help="Address; 0.0.0.0 accepts other machines.")
    ] = "127.0.0.1",
) -> None:
    """Serve embeddings and OOD scores over HTTP (BentoML), until interrupted.

    Try `curl -F images=@photo.jpg localhost:3000/v1/embed`. Limits are set by
    environment variables: ISOGON_ALPHA, ISOGON_MAX_IMAGES, ISOGON_MAX_IMAGE_BYTES,
    ISOGON_MAX_IMAGE_PIXELS, ISOGON_MAX_BODY_BYTES, ISOGON_THREADS.
    """
    from serving import serve as run

    run(bundle, host=host, port=port)


def main() -> None:
    """Run the command line; say what went wrong in the words of the error."""
    # Waiting threads spin a little, then sleep: beside one other process on two cores a
    # training step is otherwise up to 20 times slower. Read when torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, lambda number, _: sys.exit(128 + number))
    try:
        app()
    except Exception as error:
        from bundle import IsogonError

        if isinstance(error, IsogonError):
            console.failure(error)
            sys.exit(error.exit_code)
        if isinstance(error, OSError):
            console.failure(error)
            sys.exit(2)
        raise


def _sample_images(progress: Progress) -> tuple[Path, Path]:
    """Return the folders of familiar and unfamiliar sample images, written once."""
    with console.loading(progress):
        from distill.images.samples import sample_images
    return sample_images(Path("quickstart-images"), progress)


def _distilled(
    recipe: "Recipe", output: Path, progress: Progress, *, accept_changes: bool = False
) -> "Bundle":
    from bundle import require_absent

    require_absent(output)
    with console.loading(progress):
        from distill.distillation import distill as run
    try:
        return run(recipe, output, progress, accept_changes=accept_changes)
    except (KeyboardInterrupt, SystemExit) as stopped:
        if getattr(stopped, "code", None) != 0:  # 0: a further process of a finished run
            console.note("Stopped. Run the same command again to continue.")
        raise


def _made_by(recipe: "Recipe", bundle: "Bundle") -> "Bundle":
    """Return the bundle, if it is what this recipe makes."""
    from bundle import UsageError
    from distill import recipe_from_toml

    theirs = recipe_from_toml(bundle.file("recipe.toml")).model_dump()
    ours = recipe.model_dump()
    differing = sorted(key for key in ours if ours[key] != theirs[key])
    if differing:
        raise UsageError(
            f"{bundle.path} was made with other choices ({', '.join(differing)}), and "
            f"a bundle is never overwritten. Choose another --output, or remove it."
        )
    return bundle


def _exported(bundle: "Bundle", progress: Progress) -> "ParityReport":
    """Return the parity report, exporting first unless an intact artifact has one."""
    from bundle import Bundle, BundleError, vouched_artifact

    try:
        return vouched_artifact(Bundle.open(bundle.path)).report
    except BundleError:
        with console.loading(progress):
            from export import export_onnx
        return export_onnx(bundle, progress)


def _latencies(bundle: "Bundle", progress: Progress) -> dict[str, float]:
    """Return the milliseconds for one image in torch and in ONNX Runtime."""
    from bundle import GOLDEN, open_runner, vouched_artifact

    with console.loading(progress):
        from export import TorchRunner, graph_from_bundle, latency

    pixels = bundle.arrays(GOLDEN)["pixels"][:1]
    runners = {
        "torch": TorchRunner(graph_from_bundle(bundle)),
        "ONNX Runtime": open_runner(bundle, vouched_artifact(bundle)),
    }
    return {
        name: latency(runner, pixels)
        for name, runner in progress.track(runners.items(), description="Measuring latency")
    }


def _asked_over_http(
    bundle: "Bundle", images: tuple[Path, ...], progress: Progress
) -> list[dict[str, Any]]:
    """Return the OOD answers of a real service, started and stopped for it."""
    import httpx

    from serving import running_service

    task = progress.add_task("Starting the service", total=1 + len(images))
    log = Path(tempfile.mkdtemp(prefix="isogon-")) / "service.log"
    answers = []
    with (
        running_service(bundle.path, log) as url,
        httpx.Client(base_url=url, timeout=60, trust_env=False) as client,
    ):
        progress.update(task, advance=1, description="Asking over HTTP")
        for image in images:
            with image.open("rb") as file:
                answer = client.post("/v1/embed", files={"images": file})
            answer.raise_for_status()
            answers.append(answer.json()["results"][0]["ood"])
            progress.update(task, advance=1)
    return answers


def _evaluation(bundle: "Bundle") -> "Evaluation":
    from distill.evaluation import Evaluation

    return bundle.record("evaluation.json", Evaluation)


def _named_set(text: str) -> "tuple[str, tuple[str, Kind | None]]":
    """Return the name, the source and the kind that NAME[:KIND]=SOURCE says."""
    from bundle import UsageError

    name, given, source = text.partition("=")
    name, colon, kind = name.partition(":")
    if not (name and given and source) or (colon and kind not in ("near", "far")):
        raise UsageError(
            f"Expected --unfamiliar as NAME=SOURCE or NAME:near=SOURCE, got {text!r}; "
            f"write for example --unfamiliar textures:far=data/textures."
        )
    found: Kind | None = "near" if kind == "near" else "far" if kind == "far" else None
    return name, (source, found)


def _report(report: "ParityReport", as_json: bool) -> None:
    if as_json:
        console.as_json(report.model_dump(mode="json"))
    else:
        console.parity(report)


if __name__ == "__main__":
    main()

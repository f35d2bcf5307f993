"""`isogon quickstart`: distil, export, calibrate and serve, on real images."""

import shutil
import tempfile
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.progress import Progress
from rich.table import Table

from isogon.cli import console
from isogon.cli.console import out
from isogon.cli.distillation import distilled
from isogon.cli.evaluation import evaluation_table, print_fitting, print_worth
from isogon.cli.recipe import show_recipe
from isogon.cli.tables import add_row
from isogon.stage_imports import load_stage

if TYPE_CHECKING:
    from distill import Chosen, Recipe
    from isogon.bundle import Bundle
    from isogon.bundle.evaluation import Evaluation
    from isogon.parity import ParityReport

# Files of a run that are quickly made again: a lock, the plan, the readable images.
_DISPOSABLE = (".lock", "plan.json", "readable-*")


def quickstart(
    images: Annotated[
        Path | None,
        typer.Option(
            help="A folder of your own images, with or without class folders. "
            "Without it: handwritten digits from scikit-learn, for a tiny student.",
            show_default=False,
        ),
    ] = None,
    unfamiliar: Annotated[
        Path | None,
        typer.Option(
            help="Images the OOD score should flag, such as those you expect by mistake. "
            "Without it: photographs and textures from scikit-image and scikit-learn, "
            "without those that the teacher finds similar to --images.",
            show_default=False,
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[:CHECKPOINT]",
            help="Any timm model, with timm's weights or those of a file. Without it: "
            "DINOv2 if timm's hub answers, else EfficientNet-Lite2 from a package; for "
            "the digits EfficientNet-Lite0.",
            show_default=False,
        ),
    ] = None,
    student: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[:CHECKPOINT]",
            help="With --images: as --teacher. Without it: a small pretrained model.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="The bundle to make, or to continue."),
    ] = Path("quickstart.isogon"),
    size: Annotated[
        int | None,
        typer.Option(
            help="Image size in pixels. Without it: 128, for the digits 96.",
            min=32,
            show_default=False,
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            help="Passes over the images. Without it: the recipe's default number of "
            "steps; for the digits about 900.",
            min=1,
            show_default=False,
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            help="How many minutes distilling may take, instead of --epochs.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Distil, export, calibrate and serve on real images, in minutes.

    Run it again to continue an interrupted run. If the bundle is finished, it is only
    measured and served.
    """
    from distill import name_of
    from isogon.api import inspect
    from isogon.bundle import Bundle
    from isogon.images import ImageFolder

    name = name_of(str(output))  # the bundle is named after its folder
    _require_sensible(images, student, epochs, minutes)
    for given in (images, unfamiliar):
        if given is not None:
            ImageFolder.list(given)  # report a bad folder before anything is written
    with console.progress() as progress:
        if images is None:
            recipe = _of_digits(name, unfamiliar, teacher, size, epochs, progress)
        else:
            recipe = _of_images(
                name, images, unfamiliar, teacher, student, size, epochs, progress
            )
        if output.exists():
            opened = Bundle.open(output, rewriting=["export"])
            bundle = _made_by(recipe, opened, any_length=minutes is not None)
        else:
            bundle = _distilled(recipe, output, progress, minutes)
        report = _exported(bundle, progress)
        latencies = _latencies(bundle, progress)
        examples = _examples(recipe, bundle, progress)
        answers = _answers_over_http(bundle, examples, progress)
    show_quickstart(
        bundle,
        report,
        inspect(bundle).evaluation,
        latencies=latencies,
        examples=examples,
        answers=answers,
    )


def show_quickstart(
    bundle: "Bundle",
    report: "ParityReport",
    found: "Evaluation",
    *,
    latencies: dict[str, float],
    examples: tuple[Path, ...],
    answers: list[dict[str, Any]],
) -> None:
    """Print the figures of every stage, and the commands to try next."""
    print_worth(found)
    print_fitting(
        lambda intervals: _table(
            bundle,
            report,
            found,
            intervals=intervals,
            latencies=latencies,
            examples=examples,
            answers=answers,
        )
    )
    counted = [one for one in found.unfamiliar.values() if one.flagged is not None]
    if counted:
        flagged = sum(one.flagged or 0 for one in counted)
        images = sum(one.images for one in counted)
        out.print(f"\nIt flags {flagged:,} of {images:,} unfamiliar images.")
    path, part = quote(str(bundle.path)), quote(f"images=@{examples[1]}")
    out.print(
        f"\nNext:\n"
        f"  isogon serve {path}\n"
        f"  curl -F {part} localhost:3000/v1/embed\n"
        f"  isogon inspect {path}\n"
        f"  isogon quickstart --images YOUR_FOLDER --unfamiliar OTHER_FOLDER --output "
        f"yours.isogon",
        markup=False,
        soft_wrap=True,
    )


def _table(
    bundle: "Bundle",
    report: "ParityReport",
    found: "Evaluation",
    *,
    intervals: bool,
    latencies: dict[str, float],
    examples: tuple[Path, ...],
    answers: list[dict[str, Any]],
) -> Table:
    """Return the table of all figures."""
    title = f"{bundle.path}"
    table = evaluation_table(found, title, intervals=intervals, bundle=bundle)
    blank = [""] * (len(table.columns) - 2)  # all but the names and the student

    def of_student(name: str, value: str) -> None:
        add_row(table, name, *blank, value)

    figures = report.figures
    table.add_section()
    of_student("parity: minimum cosine", f"{figures.min_cosine:.7f}")
    of_student("parity: largest error", f"{figures.max_abs_error:.1e}")
    of_student("parity: neighbours kept", f"{figures.neighbour_agreement:.4f}")
    of_student("parity: same decisions", f"{figures.decision_agreement:.4f}")
    for name, milliseconds in latencies.items():
        of_student(f"latency, {name}", f"{milliseconds:.2f} ms")
    table.add_section()
    for kind, image, ood in zip(("familiar", "unfamiliar"), examples, answers, strict=True):
        verdict = "unfamiliar" if ood["is_ood"] else "familiar"
        of_student(f"{kind}: {image.name}", f"p = {ood['p_value']:.4f}, {verdict}")
    return table


def _require_sensible(
    images: Path | None, student: str | None, epochs: int | None, minutes: float | None
) -> None:
    from isogon.errors import UsageError

    if images is None and student is not None:
        raise UsageError("Expected --images with --student: the digits have their own.")
    if epochs is not None and minutes is not None:
        raise UsageError("Expected --minutes or --epochs, got both. Leave one out.")
    if minutes is not None and not minutes > 0:
        raise UsageError(f"Expected --minutes above 0, got {minutes:g}.")


def _of_digits(
    name: str,
    unfamiliar: Path | None,
    teacher: str | None,
    size: int | None,
    epochs: int | None,
    progress: Progress,
) -> "Recipe":
    from distill import digits_recipe

    return digits_recipe(
        _sample_images("familiar", progress),
        unfamiliar or _sample_images("unfamiliar", progress),
        name=name,
        teacher=teacher,
        size=size,
        epochs=epochs,
    )


def _of_images(
    name: str,
    images: Path,
    unfamiliar: Path | None,
    teacher: str | None,
    student: str | None,
    size: int | None,
    epochs: int | None,
    progress: Progress,
) -> "Recipe":
    """Return the recipe for the user's own images, and print it."""
    from distill import quickstart_recipe

    def chosen(pictures: Path) -> "Chosen":
        return quickstart_recipe(
            images,
            pictures,
            name=name,
            teacher=teacher,
            student=student,
            size=size,
            epochs=epochs,
        )

    if unfamiliar is None:
        pictures = _sample_images("unfamiliar", progress)
        recipe = chosen(pictures).recipe
        load_stage("distill.unfamiliar_pictures", extra="distill", progress=progress)
        from distill.unfamiliar_pictures import unfamiliar_pictures

        unfamiliar = unfamiliar_pictures(recipe, pictures, progress)
    found = chosen(unfamiliar)
    show_recipe(found, whole=True)
    return found.recipe


def _sample_images(kind: Literal["familiar", "unfamiliar"], progress: Progress) -> Path:
    """Return the folder of these sample images, written once."""
    load_stage("distill.images.sample_images", extra="distill", progress=progress)
    from distill.images.sample_images import familiar_images, unfamiliar_images

    write = familiar_images if kind == "familiar" else unfamiliar_images
    return write(Path("quickstart-images"), progress)


def _distilled(
    recipe: "Recipe", output: Path, progress: Progress, minutes: float | None
) -> "Bundle":
    """Return the new bundle. A run that is refused at its start leaves no folder."""
    from isogon.errors import UsageError

    load_stage("distill.distillation", extra="distill", progress=progress)
    from distill.distillation import work_folder

    work = work_folder(output)
    begun = work.exists()
    try:
        return distilled(recipe, output, progress, minutes=minutes)
    except UsageError:
        worthless = {path for name in _DISPOSABLE for path in work.glob(name)}
        if not begun and work.exists() and set(work.iterdir()) <= worthless:
            shutil.rmtree(work)
        raise


def _made_by(recipe: "Recipe", bundle: "Bundle", *, any_length: bool) -> "Bundle":
    """Return the bundle if this recipe made it; with `any_length`, its length may differ.

    Raises:
        UsageError: it was made with other choices.
    """
    from distill import recipe_from_toml
    from distill.recipe.writing import portable
    from isogon.errors import UsageError

    theirs, ours = (
        portable(one, bundle.path.parent).model_dump()
        for one in (recipe_from_toml(bundle.file("recipe.toml")), recipe)
    )
    ours |= {"name": theirs["name"]}  # the folder may be renamed
    if any_length:  # --minutes chose it by measurement
        for key in ("epochs", "steps", "warmup_epochs", "warmup_share"):
            ours["train"][key] = theirs["train"][key]
    differing = sorted(key for key in ours if ours[key] != theirs[key])
    if differing:
        raise UsageError(
            f"{bundle.path} was made with other choices ({', '.join(differing)}), and "
            f"a bundle is never overwritten. Choose another --output, or remove it."
        )
    return bundle


def _exported(bundle: "Bundle", progress: Progress) -> "ParityReport":
    """Return the parity report; export first unless an intact artifact has one."""
    from isogon.bundle import Bundle, vouched_artifact
    from isogon.errors import BundleError

    try:
        return vouched_artifact(Bundle.open(bundle.path)).report
    except BundleError:
        load_stage("export.artifacts", extra="export", progress=progress)
        from export import export_bundle

        return export_bundle(bundle, progress).reports[0]


def _latencies(bundle: "Bundle", progress: Progress) -> dict[str, float]:
    """Return the milliseconds for one image in torch and in ONNX Runtime."""
    from isogon.bundle import GOLDEN, open_runner, vouched_artifact

    load_stage("export.graph", extra="export", progress=progress)
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


def _examples(recipe: "Recipe", bundle: "Bundle", progress: Progress) -> tuple[Path, ...]:
    from distill import example_images
    from isogon.bundle import Bundle, open_runner, vouched_artifact

    opened = Bundle.open(bundle.path)
    runner = open_runner(opened, vouched_artifact(opened))
    return example_images(recipe, opened, runner, progress)


def _answers_over_http(
    bundle: "Bundle", images: tuple[Path, ...], progress: Progress
) -> list[dict[str, Any]]:
    """Start the service, send it the images, stop it; return its OOD answers."""
    import httpx

    from serving import running_service

    task = progress.add_task("Starting the service", total=1 + len(images))
    # The folder stays if this fails: the log in it has the reason.
    folder = Path(tempfile.mkdtemp(prefix="isogon-"))
    answers = []
    with (
        running_service(bundle.path, folder / "service.log") as url,
        httpx.Client(base_url=url, timeout=60, trust_env=False) as client,
    ):
        progress.update(task, advance=1, description="Asking over HTTP")
        for image in images:
            with image.open("rb") as file:
                answer = client.post("/v1/embed", files={"images": file})
            answer.raise_for_status()
            answers.append(answer.json()["results"][0]["ood"])
            progress.update(task, advance=1)
    shutil.rmtree(folder)
    return answers

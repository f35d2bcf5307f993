"""`isogon verify` and `isogon judge`: claims measured again, and judged again."""

from pathlib import Path
from typing import Annotated

import typer

from isogon.cli import console
from isogon.cli.more_images import more_pixels
from isogon.cli.options import AsJson, Bounds, BundlePath, MoreImages


def verify(
    bundle: BundlePath,
    vouch: Annotated[
        bool,
        typer.Option(
            "--vouch",
            help="Let engines in that were only built (`isogon export --build-only`), if "
            "they pass on this machine.",
        ),
    ] = False,
    bound: Bounds = None,
    images: MoreImages = None,
    as_json: AsJson = False,
) -> None:
    """Check every hash and repeat every parity claim, on this machine.

    Run it after moving a bundle, or after upgrading Isogon, torch, ONNX Runtime or
    TensorRT: it tells whether the artifacts still hold. Engines for another GPU are
    passed over, and named. Each artifact has to keep the bounds under which it was let
    in; --bound is for the engines that --vouch lets in.
    """
    from isogon.bundle import Bundle
    from isogon.errors import UsageError

    if bound and not vouch:
        raise UsageError(
            "--bound is for engines that --vouch lets in; every other artifact has to keep "
            "the bounds it was let in under. Add --vouch, or leave it out."
        )
    opened = Bundle.open(bundle)
    with console.progress() as progress:
        with console.loading(progress, extra="export"):
            from export import tolerances, verify as run
        verified = run(
            opened,
            progress,
            vouch=vouch,
            tolerances=tolerances(bound or ()),
            extra=more_pixels(images, opened, progress),
        )
    if as_json:
        console.as_json(
            {
                "reports": [report.model_dump(mode="json") for report in verified.reports],
                "faults": [str(fault) for fault in verified.faults],
                "skipped": dict(verified.skipped),
            }
        )
    else:
        console.verified(verified)
    verified.require()


def judge(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="A saved parity run: parity/ARTIFACT.safetensors in a bundle, or beside "
            "a rejected artifact.",
        ),
    ],
    bound: Bounds = None,
    as_json: AsJson = False,
) -> None:
    """Judge a saved parity run again, within other bounds; nothing is run.

    Exit status 1 if a bound is broken. The bundle is not touched: to let an artifact
    in, give the same --bound to `isogon export`.
    """
    from isogon.parity import ParityRun

    loaded = ParityRun.load(run)
    with console.needing("export"):
        from export import ParityFailedError, tolerances

    precision = loaded.claim.precision
    report = loaded.judge(tolerances(bound or (), made=(precision,))[precision])
    if not report:
        if as_json:
            console.as_json(report.model_dump(mode="json"))
        raise ParityFailedError(report, "Nothing was changed.")
    if as_json:
        console.as_json(report.model_dump(mode="json"))
    else:
        console.parity(report)

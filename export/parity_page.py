"""Show what parity found on the bundle's page."""

from collections.abc import Collection, Sequence

from isogon.bundle import Bundle, StageWriter, parity_reports
from isogon.parity import REPORT, ParityReport, with_parity


def show_parity(
    bundle: Bundle,
    stage: StageWriter,
    fresh: Sequence[ParityReport],
    withdrawn: Collection[str] = (),
) -> None:
    """Rewrite the section on parity of `report.html`, where the bundle has that page.

    Args:
        bundle: as it was before this stage.
        stage: where the fresh reports are written.
        fresh: they take the place of older reports on the same artifacts.
        withdrawn: artifacts that leave the bundle, and the page.

    Raises:
        BundleError: the report of another artifact is of an earlier version.
    """
    if REPORT not in bundle:
        return
    page = bundle.file(REPORT).read_text(encoding="utf-8")
    gone = {*withdrawn, *(report.artifact for report in fresh)}
    others = parity_reports(bundle, leaving_out=gone)
    reports = sorted([*others, *fresh], key=lambda report: report.artifact)
    stage.also("evaluate").write(REPORT, with_parity(page, reports))

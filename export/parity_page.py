"""Show what parity found on the bundle's page."""

from collections.abc import Sequence

from bundle import (
    REPORT,
    Bundle,
    ParityReport,
    StageWriter,
    parity_reports,
    with_parity,
)


def show_parity(bundle: Bundle, stage: StageWriter, fresh: Sequence[ParityReport]) -> None:
    """Rewrite the section on parity of `report.html`, where the bundle has that page.

    Args:
        bundle: as it was before this stage.
        stage: where the fresh reports are written.
        fresh: they take the place of older reports on the same artifacts.
    """
    if REPORT not in bundle:
        return
    page = bundle.file(REPORT).read_text(encoding="utf-8")
    replaced = {report.artifact for report in fresh}
    others = [one for one in parity_reports(bundle) if one.artifact not in replaced]
    reports = sorted([*others, *fresh], key=lambda report: report.artifact)
    stage.also("evaluate").write(REPORT, with_parity(page, reports))

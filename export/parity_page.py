"""Show what parity found on the bundle's page."""

from collections.abc import Sequence

from bundle import REPORT, Bundle, ParityReport, StageWriter, with_parity


def show_parity(
    bundle: Bundle, stage: StageWriter, reports: Sequence[ParityReport]
) -> None:
    """Rewrite the section on parity of `report.html`, where the bundle has that page."""
    if REPORT in bundle:
        page = bundle.file(REPORT).read_text(encoding="utf-8")
        stage.also("evaluate").write(REPORT, with_parity(page, reports))

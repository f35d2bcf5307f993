"""The detector in force: its settings, and the images behind it."""

from typing import TYPE_CHECKING

from rich.table import Table

from isogon.cli.tables import STYLE, add_row
from isogon.cli.terminal import note, out

if TYPE_CHECKING:
    from export import Detection
    from isogon.bundle import DetectorInForce


def detector(found: "DetectorInForce", detects: "Detection | None") -> None:
    """Print which detector is in force, what is behind it, and how well it detects."""
    table = Table(title="Detector in force", show_header=False, **STYLE)
    add_detector(table, found)
    out.print(table)
    if detects is None:
        note("The bundle keeps no unfamiliar images; --unfamiliar names some to detect.")
    else:
        out.print(detects.sentence, markup=False, soft_wrap=True)


def add_detector(table: Table, found: "DetectorInForce") -> None:
    """Add the rows that say so to a table of facts."""
    spec = found.spec
    settings = {"k": spec.k, "dim": spec.dim}
    given = [f"{name} = {value}" for name, value in settings.items() if value is not None]
    add_row(table, "detector", ", ".join([spec.name, *given]))
    where = "at the site" if found.fitted == "site" else "in training"
    add_row(table, "fitted", where + (f", on {found.images}" if found.images else ""))
    if found.bank is not None:
        reduced = found.reduced_bank
        rest = "" if reduced is None else f", reduced to {reduced:,} vectors"
        add_row(table, "images in its bank", f"{found.bank:,}{rest}")
    add_row(table, "images that calibrate", f"{found.calibration:,}")
    add_row(table, "false-alarm rate, alpha", f"{spec.alpha:g}")

"""Several students side by side."""

from typing import TYPE_CHECKING

from rich.text import Text

from isogon.cli.tables import add_row, titled
from isogon.cli.terminal import out

if TYPE_CHECKING:
    from distill.evaluation.comparison import Figure
    from isogon.api import Comparison


def comparison(found: "Comparison") -> None:
    """Print the figures of several bundles, the best of each in bold."""
    from distill.evaluation.comparison import baselines

    figures = found.figures
    names = [
        name
        for bundle, (_, evaluation) in found.subjects.items()
        for name in (bundle, *baselines(bundle, evaluation))
    ]
    wide = titled("Students", "bundle", *(figure.name for figure in figures))
    for name in names:
        add_row(wide, name, *(_compared_cell(figure, name) for figure in figures))
    if wide.__rich_measure__(out, out.options).minimum <= out.width:
        out.print(wide)
    else:
        tall = titled("Students", "", *names)
        for figure in figures:
            cells = (_compared_cell(figure, name) for name in names)
            add_row(tall, figure.name, *cells)
        for column in tall.columns:
            column.overflow = "fold"  # long names stay whole
        out.print(tall)
    for bundle, worth in found.worth.items():
        out.print(f"\n{bundle}: {worth.sentence}", markup=False, soft_wrap=True)


def _compared_cell(figure: "Figure", name: str) -> Text:
    value = figure.values.get(name)
    shown = "" if value is None else f"{value:,.0f}" if value > 1 else f"{value:.3f}"
    best = len(figure.best) < len(figure.values) and name in figure.best
    return Text(shown, "bold" if best else "", no_wrap=True)

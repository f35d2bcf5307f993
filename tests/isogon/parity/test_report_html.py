from html.parser import HTMLParser

import numpy as np
import pytest

from isogon.bundle.manifest import PAGE_START, require_inert
from isogon.parity import TOLERANCES, Figures, ParityReport, Stability, with_parity

EMPTY = (
    f"{PAGE_START}</head><body><main>\n<p>kept</p>\n</main><footer></footer></body></html>"
)
REPORT = ParityReport(
    artifact="onnx/model.onnx",
    sha256="0123456789ab" + "0" * 52,
    function="1" * 64,
    precision="fp32",
    reference="torch 2.15 eager float32 on CPU",
    candidate="onnxruntime 1.31",
    batch_sizes=(1, 2, 7),
    figures=Figures.none().model_copy(update={"images": 120, "max_abs_error": 3e-7}),
    stability=Stability(batch_invariance=0.0, determinism=0.0),
    tolerance=TOLERANCES["fp32"],
    calibration=None,
)


class Cells(HTMLParser):
    """The text of each table row, cell by cell."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.depth: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "meta":
            self.depth.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.depth.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.depth[-1:]):
            self.rows[-1][-1] += data


def test_every_figure_is_in_the_table_with_its_bound_and_verdict() -> None:
    figures = REPORT.figures.model_copy(update={"min_cosine": 0.5, "mean_cosine": np.nan})
    page = with_parity(EMPTY, [REPORT.model_copy(update={"figures": figures})])
    head, *rows = Cells(page).rows
    assert head[:3] == ["figure", "seen", "bound"]
    shown = {name: rest for name, *rest in rows}
    assert list(shown) == [check.name.replace("_", " ") for check in REPORT.checks]
    assert shown["max abs error"][:3] == ["3e-07", "≤ 0.0001", "ok"]
    assert shown["min cosine"][:3] == ["0.5", "≥ 0.99999", "broken"]
    assert shown["mean cosine"][::2] == ["nan", "broken"]
    assert all(row[3] for row in shown.values())  # what the figure is
    assert page.count('class="broken"') == 2
    assert "120 comparisons at batch sizes 1, 2, 7" in page
    assert "0123456789ab…" in page


def test_the_section_is_replaced_and_the_rest_of_the_page_stays() -> None:
    once = with_parity(EMPTY, [])
    assert "Nothing has been exported yet" in once
    other = REPORT.model_copy(update={"artifact": "onnx/model.fp16.onnx"})
    twice = with_parity(once, [REPORT, other])
    assert "Nothing has been exported yet" not in twice
    assert twice.count('id="parity"') == 1
    assert twice.count("<table>") == 2
    assert with_parity(twice, []) == once
    assert with_parity(twice, [REPORT, other]) == twice
    before, after = EMPTY.split("</main>")
    for page in (once, twice):
        assert page.startswith(before)
        assert page.endswith("</main>" + after)


@pytest.mark.parametrize("field", ["artifact", "reference", "candidate"])
def test_words_from_outside_are_escaped_and_the_page_stays_inert(field: str) -> None:
    hostile = '<script>alert(1)</script><!-- /parity --> "&'
    page = with_parity(EMPTY, [REPORT.model_copy(update={field: hostile})])
    require_inert("report.html", page.encode())
    assert "&lt;script&gt;" in page
    assert with_parity(page, []) == with_parity(EMPTY, [])


def test_text_without_a_place_gets_the_section_at_its_end() -> None:
    page = with_parity(PAGE_START, [REPORT])
    assert page.startswith(PAGE_START)
    assert 'id="parity"' in page

"""The section on parity in `report.html`, which `export` fills in.

The page belongs to the stage `evaluate`. The section is between two comments, so that each
stage can replace its own part. All text is escaped, and the HTML has no script.
"""

from collections.abc import Sequence
from html import escape

from isogon.parity.report import ParityReport
from isogon.parity.tolerance import Check

REPORT = "report.html"
_BEGIN, _END = "<!-- parity -->", "<!-- /parity -->"

_MEANINGS = {
    "max_abs_error": "largest difference of a coordinate of the embedding",
    "max_norm_error": "how far an embedding's length is from 1",
    "min_cosine": "cosine of the two embeddings of an image, the smallest of all",
    "mean_cosine": "the same, as the mean over the images",
    "neighbour_agreement": "share of an image's ten nearest neighbours that stay the same",
    "max_score_error": "largest change of an OOD score, in units of their range",
    "score_rank_correlation": "Spearman's; 1 if the OOD scores keep their order",
    "decision_agreement": "share of images with the same out-of-distribution decision",
    "batch_invariance": "largest change of a coordinate by batch size or position",
    "determinism": "largest change of a coordinate when run again",
}

_NONE = """\
<p>Nothing has been exported yet. <code>isogon export</code> makes the artifacts, compares
each with the student in eager float32 torch on real images, and writes the result here.</p>
"""
_WORDS = """\
<p>Each artifact was compared with the student in eager float32 torch, on the same real
images, at several batch sizes. The worst figure counts. An artifact enters the bundle only
if every figure keeps its bound.</p>
"""
_HEAD = """\
<thead><tr><th scope="col" class="left">figure</th><th scope="col">seen</th>\
<th scope="col">bound</th><th scope="col">verdict</th>\
<th scope="col" class="left">what it is</th></tr></thead>
"""


def with_parity(page: str, reports: Sequence[ParityReport]) -> str:
    """Return the page with the section on parity made from these reports.

    A page of an earlier version has no place for it and gets the section at its end.
    """
    section = f"{_BEGIN}\n{_section(reports)}{_END}"
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if begin and end:
        return f"{before}{section}{after}"
    before, end, after = page.rpartition("</main>")
    if not end:
        before, after = page, ""
    return f"{before}{section}\n{end}{after}"


def _section(reports: Sequence[ParityReport]) -> str:
    shown = _WORDS + "".join(map(_artifact, reports)) if reports else _NONE
    return (
        f'<section id="parity">\n<h2>Do the artifacts compute the same?</h2>\n'
        f"{shown}</section>\n"
    )


def _artifact(report: ParityReport) -> str:
    sizes = ", ".join(map(str, report.batch_sizes))
    calibrated = report.calibration
    decisions = (
        "its OOD scores are not finite, so it makes no decisions"
        if calibrated is None
        else f"decisions at a false-alarm rate of {calibrated.alpha:g}, calibrated on "
        f"{len(calibrated.scores):,} familiar images"
    )
    return (
        f"<h3>{escape(report.artifact)}</h3>\n"
        f"<p>{escape(report.precision)}, on {escape(report.candidate)}, against "
        f"{escape(report.reference)}: {report.figures.images:,} comparisons at batch "
        f"sizes {sizes}; {decisions}. SHA-256 <code>{report.sha256[:12]}…</code></p>\n"
        f'<div class="scroll" tabindex="0"><table>\n'
        f"<caption>Parity of {escape(report.artifact)}</caption>\n"
        f"{_HEAD}<tbody>\n{''.join(map(_row, report.checks))}</tbody>\n</table></div>\n"
    )


def _row(check: Check) -> str:
    state = "ok" if check else "broken"
    error = check.sign == "<="
    seen = f"{check.seen:.2g}" if error else f"{check.seen:.7g}"
    return (
        f'<tr class="{state}"><th scope="row">{check.name.replace("_", " ")}</th>'
        f"<td>{seen}</td><td>{'≤' if error else '≥'} {check.bound:g}</td>"
        f'<td>{state}</td><td class="left">{_MEANINGS[check.name]}</td></tr>\n'
    )

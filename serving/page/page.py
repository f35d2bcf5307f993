"""The page at `/`: what is served here, and the line to paste to try it."""

from html import escape

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from serving.api.cards import card
from serving.api.schemas import ModelResponse
from serving.models import Models

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{name} · Isogon</title>
<style>
:root {{ color-scheme: light dark }}
body {{
  font: 16px/1.5 system-ui, sans-serif;
  max-width: 46rem; margin: 3rem auto; padding: 0 1rem;
}}
th {{ text-align: left; font-weight: 600; padding-right: 1.5rem; vertical-align: top }}
td {{ overflow-wrap: anywhere }}
pre {{
  padding: .75rem 1rem; overflow-x: auto; border-radius: .4rem;
  border: 1px solid color-mix(in srgb, currentColor 25%, transparent);
}}
</style>
<h1>{name}</h1>
<p>Unit-norm embeddings and calibrated out-of-distribution scores.</p>
<table>
{rows}
</table>
<h2>Try it</h2>
<pre>curl -F images=@photo.jpg {url}v1/embed
curl -F images=@photo.jpg {url}v1/score
curl {url}v1/model</pre>
<p><a href="openapi.json">OpenAPI document</a> · <a href="v1/model">model as JSON</a> ·
<a href="metrics">metrics</a></p>
</html>
"""


router = APIRouter()


@router.get("/", include_in_schema=False)
async def home(request: Request) -> HTMLResponse:
    """Answer with the page; it asks nothing of any other host."""
    models: Models = request.app.state.models
    async with models.use() as pipeline:
        return HTMLResponse(_page(card(pipeline.model), str(request.base_url)))


def _page(card: ModelResponse, url: str) -> str:
    facts = {
        "Student": f"{card.student.architecture}, {card.student.parameters:,} parameters",
        "Teacher": f"{card.teacher.architecture}, {card.teacher.parameters:,} parameters",
        "Embedding": f"{card.width} numbers, float32, unit norm",
        "Fingerprint": card.fingerprint,
        "Runs on": card.runner,
        "Parity": f"minimum cosine {card.parity.min_cosine:.7f}, largest error "
        f"{card.parity.max_abs_error:.1e} on {card.parity.images} comparisons",
        "Flags": f"p ≤ {card.calibration.alpha:g}, calibrated on "
        f"{card.calibration.images} familiar images",
    }
    rows = "\n".join(
        f"<tr><th>{escape(key)}<td>{escape(value)}" for key, value in facts.items()
    )
    return _PAGE.format(name=escape(card.name), rows=rows, url=escape(url))

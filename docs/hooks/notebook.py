"""`get-started.ipynb` as a page, and beside it the notebook to download."""

import json
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

NOTEBOOK = Path(__file__).parents[1] / "get-started.ipynb"


def page_of(notebook: str) -> str:
    """Return a notebook's cells as Markdown, without their outputs."""
    parts = []
    for cell in json.loads(notebook)["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    return "\n\n".join(parts) + "\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page; the notebook itself is a file of the site already."""
    text = NOTEBOOK.read_text(encoding="utf-8")
    page = page_of(text) + "\n[Download this notebook](../get-started.ipynb).\n"
    files.append(File.generated(config, "get-started/notebook.md", content=page))
    return files

"""Pages that live elsewhere in the repository, and links that lead there.

A text stands once, where it is maintained: `README.md` is the site's first page, and the
bundle's specification, the results of the benchmarks and others become pages of the site
where they are. A link is written as in the repository; on the site it leads to the page,
or to a copy of the file (`files/…`) where it is no page.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
# Where files of the repository stand on the site. A pattern may match nothing.
_PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "deploy/README.md": "how-to/deploy.md",
    "isogon/bundle/README.md": "reference/bundle.md",
    "recipes/README.md": "how-to/recipes.md",
    "recipes/keys.md": "reference/recipe.md",
}
_FOLDERS = {"benchmarks/results": "benchmarks"}  # every page in it
_PICTURES = (".svg", ".png")
_LINK = re.compile(r"(\]\(|src=\"|srcset=\")([^)\s\"#]+)")
_FENCE = re.compile(r"(^```.*?^```[ ]*$)", re.MULTILINE | re.DOTALL)


def mounted() -> dict[str, str]:
    """Return the place on the site of each file of the repository that is a page there."""
    found = {place: page for place, page in _PAGES.items() if (ROOT / place).exists()}
    for folder, section in _FOLDERS.items():
        for path in sorted((ROOT / folder).iterdir()):
            if path.suffix == ".md" or path.suffix in _PICTURES:
                found[f"{folder}/{path.name}"] = f"{section}/{path.name}"
    return found


def site_place(target: str) -> str | None:
    """Return where a file of the repository stands on the site; None if it is no file."""
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    known = mounted() | {folder: f"{page}/index.md" for folder, page in _FOLDERS.items()}
    for candidate in (target, f"{target}/README.md"):
        if candidate in known:
            return known[candidate]
    return f"files/{target}" if (ROOT / target).is_file() else None


def linked(text: str, place: str) -> set[str]:
    """Return the files of the repository that a page at `place` links to."""
    prose = _FENCE.sub("", text)
    return {
        posixpath.normpath(posixpath.join(posixpath.dirname(place), target))
        for _, target in _LINK.findall(prose)
        if "://" not in target and not target.startswith("mailto:")
    }


def for_site(text: str, place: str, page: str) -> str:
    """Return a page's text with the links as they are on the site.

    Args:
        text: Markdown.
        place: the page's file in the repository.
        page: its file on the site.
    """

    def replaced(match: re.Match[str]) -> str:
        opening, target = match.groups()
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        there = posixpath.normpath(posixpath.join(posixpath.dirname(place), target))
        found = site_place(there)
        if found is None:
            return match[0]  # MkDocs says that it leads nowhere
        return opening + posixpath.relpath(found, posixpath.dirname(page) or ".")

    parts = _FENCE.split(text)
    return "".join(
        part if part.startswith("```") else _LINK.sub(replaced, part) for part in parts
    )


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from elsewhere, and every file that a page links to."""
    for place, page in mounted().items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / place)))
    wanted: set[str] = set()
    for file in files.documentation_pages():
        place = _repository_place(file)
        if place is not None:
            wanted |= linked(file.content_string, place)
    for target in sorted(wanted):
        found = site_place(target)
        if found is not None and found.startswith("files/"):
            files.append(
                File.generated(config, found, content=(ROOT / target).read_bytes())
            )
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return the page's text with the links as they are on the site."""
    place = _repository_place(page.file)
    return markdown if place is None else for_site(markdown, place, page.file.src_uri)


def _repository_place(file: File) -> str | None:
    """Return the file in the repository that this page is; None for a page made here."""
    for place, page in mounted().items():
        if page == file.src_uri:
            return place
    return None if file.generated_by else f"docs/{file.src_uri}"

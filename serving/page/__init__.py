"""The page at `/`, for people: this folder's files. It loads nothing from other hosts."""

import hashlib
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from fastapi import APIRouter, Request, Response

from serving.api.problems import ProblemError

_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
}
_HEADERS = {
    # The browser asks before it uses its cache: an upgrade is seen at once.
    "cache-control": "no-cache",
    "content-security-policy": "default-src 'self'; img-src 'self' data: blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class _File:
    content: bytes
    media_type: str
    etag: str


def _read(path: Path) -> _File:
    content = path.read_bytes()
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    return _File(content=content, media_type=_TYPES[path.suffix], etag=etag)


_FILES = {
    path.name: _read(path)
    for path in Path(__file__).parent.iterdir()
    if path.suffix in _TYPES
}

router = APIRouter(include_in_schema=False)


@router.api_route("/", methods=["GET", "HEAD"])
async def home(request: Request) -> Response:
    """Answer with the page."""
    return _answer(request, _FILES["index.html"])


@router.api_route("/page/{name}", methods=["GET", "HEAD"])
async def part(name: str, request: Request) -> Response:
    """Answer with a file that the page uses."""
    if name not in _FILES:
        raise ProblemError(HTTPStatus.NOT_FOUND, f"The page has no file {name!r}.")
    return _answer(request, _FILES[name])


def _answer(request: Request, file: _File) -> Response:
    headers = _HEADERS | {"etag": file.etag}
    if file.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)

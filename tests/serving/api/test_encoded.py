"""Images in base64 and data URLs, as tools write them; large ones decoded in a thread."""

import asyncio
import base64
import json
import re
import threading
from pathlib import Path
from urllib.parse import quote

import pytest
from starlette.requests import Request

from serving.api import uploads
from serving.api.json_bodies import from_base64, from_data_url
from serving.api.problems import ProblemError
from serving.api.uploads import read_upload
from serving.settings import Settings


@pytest.mark.parametrize(("size", "beside"), [(1000, False), (2**20, True)])
def test_a_large_body_is_parsed_beside_the_event_loop(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object, size: int, beside: bool
) -> None:
    image = bytes(size)
    body = json.dumps({"images": [base64.b64encode(image).decode()]}).encode()
    threads: list[int] = []
    parse = uploads.parsed

    def watched(*arguments: object) -> object:
        threads.append(threading.get_ident())
        return parse(*arguments)

    monkeypatch.setattr(uploads, "parsed", watched)

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def read() -> list[bytes]:
        headers = [(b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/v1/embed", "headers": headers}
        return (
            await read_upload(Request(scope, receive), Settings(bundle=tmp_path))
        ).images

    assert asyncio.run(read()) == [image]
    assert (threads[0] != threading.get_ident()) == beside


# Its base64 has both characters that alphabets differ in.
IMAGE = bytes(range(250, 256)) * 30 + b"\xfb"
TEXT = base64.b64encode(IMAGE).decode()
LINES = base64.encodebytes(IMAGE).decode()
URL_SAFE = base64.urlsafe_b64encode(IMAGE).decode()


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        TEXT + "\n",
        LINES,
        LINES.replace("\n", "\r\n"),
        URL_SAFE,
        URL_SAFE.rstrip("="),
        TEXT.rstrip("="),
        f"  {TEXT}\t",
        f"data:image/png;base64,{TEXT}",
        f"DATA:IMAGE/PNG;charset=utf-8;name=a.png;BASE64,{LINES}",
        f"data:;base64,{TEXT}",
        f"data:image/png;base64;charset=utf-8,{TEXT}",
        f'data:image/png;name="a, b.png";base64,{TEXT}',
        f"data:binary/octet-stream;base64,{TEXT}",
        f"data:application/octet-stream;base64,{quote(TEXT, safe='')}",
        f"data:image/png;base64,{quote(LINES, safe='')}",
    ],
    ids=range(16),
)
def test_base64_is_taken_as_common_tools_write_it(text: str, tmp_path: Path) -> None:
    settings = Settings(bundle=tmp_path)
    assert from_base64(text, 0, settings) == IMAGE
    if text.lower().startswith("data:"):
        assert from_data_url(text, 0, settings) == IMAGE


@pytest.mark.parametrize(
    ("text", "status", "says"),
    [
        ("aGk!", 422, "images[3] is not base64: its character 4 of 4 is '!'"),
        ("aG\nk\xa0", 422, "its character 5 of 5 is '\\xa0'"),
        ("aGk=aGk=", 422, "its character 4 of 8 is '='"),
        ("aGk=\0", 422, "its character 5 of 5 is '\\x00'"),
        ("aGk= \xa0aGk=", 422, "its character 6 of 10 is '\\xa0'"),
        ("aG=k\0", 422, "its character 3 of 5 is '='"),
        ("aGlhG", 422, "ends after 5 characters, inside a byte"),
        ("a photo, of a cat", 422, "its character 8 of 17 is ','"),
        ("https://example.org/a.jpg", 422, "a https URL, and the service fetches nothing"),
        ("data:text/plain;base64,aGk=", 415, "images[3] is declared as text/plain"),
        ("data:image/png,%89PNG", 422, "not in base64"),
        ("data:image/png;base64", 422, "has no comma"),
        ("data:" + ";" * 1001, 422, "is not in base64"),
    ],
)
def test_what_is_not_base64_is_explained_with_its_place(
    text: str, status: int, says: str, tmp_path: Path
) -> None:
    with pytest.raises(ProblemError, match=re.escape(says)) as refused:
        from_base64(text, 3, Settings(bundle=tmp_path))
    assert (refused.value.status, refused.value.index) == (status, 3)

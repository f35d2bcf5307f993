"""Large bodies of JSON leave the event loop to others."""

import asyncio
import base64
import json
import threading

import pytest
from starlette.requests import Request

from serving.api import uploads
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

"""Hostile requests among good ones: ISOGON_HOSTILE says how many, 10,000 in full."""

import asyncio
import io
import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

COUNT = int(os.environ.get("ISOGON_HOSTILE", "400"))
TOGETHER = 32  # connections
UNENDED = {"cut off", "form cut off", "bad chunk", "no http", "nothing"}  # they hang up
GROWTH = 64 * 2**20  # bytes that the last third may take more than those before


def request(
    body: bytes, kind: str = "image/jpeg", *more: str, path: str = "/v1/embed"
) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: x", f"content-type: {kind}", *more]
    if not any(line.startswith(("transfer-", "content-length")) for line in more):
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "connection: close", "", ""]).encode() + body


def form(*parts: bytes, name: bytes = b"images") -> bytes:
    head = b'content-disposition: form-data; name="%b"; filename="a"\r\n\r\n' % name
    return b"".join(b"--b\r\n" + head + part + b"\r\n" for part in parts) + b"--b--\r\n"


def encoded(size: tuple[int, int], kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (90, 120, 30)).save(file, kind, **options)
    return file.getvalue()


def damaged(data: bytes, random: random.Random) -> bytes:
    found = bytearray(data)
    for _ in range(random.randint(1, 20)):
        found[random.randrange(len(found))] = random.randrange(256)
    return bytes(found[: random.randint(1, len(found))])


def attacks(photo: bytes) -> dict[str, Callable[[random.Random], bytes]]:
    """The bodies that are sent, by name; each status below 500 is allowed."""
    large = encoded((3000, 2000), "WEBP", lossless=True)
    passes = encoded((640, 480), "JPEG", progressive=True)
    last = passes.rfind(b"\xff\xda")
    repeated = passes[:-2] + passes[last:-2] * 180 + b"\xff\xd9"
    formats = [encoded((64, 48), kind) for kind in ("PNG", "GIF", "TIFF", "WEBP", "BMP")]
    json = "application/json"
    multipart = "multipart/form-data; boundary=b"
    return {
        "damaged": lambda r: request(damaged(r.choice([photo, *formats]), r)),
        "noise": lambda r: request(r.randbytes(r.randint(0, 5000))),
        "large": lambda r: request(large, "image/webp"),
        "many passes": lambda r: request(repeated),
        "cut off": lambda r: request(photo, "image/jpeg", "content-length: 9999999"),
        "deep json": lambda r: request(b'{"images":' + b"[" * 5000, json),
        "many values": lambda r: request(b'{"images":["' + b'","' * 20000 + b'"]}', json),
        "no base64": lambda r: request(b'{"images":["%s!"]}' % (b"A" * 99), json),
        "no json": lambda r: request(r.randbytes(200), json),
        "form of nothing": lambda r: request(b"--b--\r\n", multipart),
        "form cut off": lambda r: request(form(photo)[: r.randint(1, 300)], multipart),
        "form of others": lambda r: request(form(photo, name=b"file"), multipart),
        "too many parts": lambda r: request(form(*[b"x"] * 200), multipart),
        "bad length": lambda r: request(b"x", "image/jpeg", "content-length: -1"),
        "two lengths": lambda r: request(
            b"x", "image/jpeg", "content-length: 1", "transfer-encoding: chunked"
        ),
        "bad chunk": lambda r: request(
            b"zz\r\nx", "image/jpeg", "transfer-encoding: chunked"
        ),
        "long header": lambda r: request(photo, "image/jpeg", f"x: {'y' * 100_000}"),
        "odd type": lambda r: request(
            photo, r.choice(["", "text/html", "image/" + "x" * 99])
        ),
        "odd coding": lambda r: request(photo, "image/jpeg", "content-encoding: gzip"),
        "odd path": lambda r: request(photo, path=f"/v1/{r.getrandbits(64):x}%00/../.."),
        "odd model": lambda r: request(photo, path="/v1/embed?model=%ff%fe"),
        "no http": lambda r: r.randbytes(r.randint(1, 2000)),
        "nothing": lambda r: b"",
    }


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_hostile_requests_change_no_good_answer(attacked: Any, photographs: Path) -> None:
    photos = [path.read_bytes() for path in sorted(photographs.iterdir())[:4]]
    hostile = attacks(photos[0])
    statuses: dict[str, Counter[int]] = {name: Counter() for name in hostile}
    good: dict[int, set[bytes]] = {index: set() for index in range(len(photos))}
    sizes: list[int] = []

    async def asked(port: int, sent: bytes, ends: bool = False) -> tuple[int, bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(sent)
            await writer.drain()
            if ends:
                writer.write_eof()
            answer = await asyncio.wait_for(reader.read(), 120)
        except ConnectionError:
            return 0, b""
        finally:
            writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]) if head else 0, body

    async def attack(service: Any) -> None:
        turns = iter(range(COUNT))

        async def one() -> None:
            for turn in turns:
                chance = random.Random(turn)
                name = chance.choice([*hostile])
                status, _ = await asked(
                    service.port, hostile[name](chance), ends=name in UNENDED
                )
                statuses[name][status] += 1
                if turn % 4 == 0:
                    index = turn // 4 % len(photos)
                    status, body = await asked(service.port, request(photos[index]))
                    assert status in (200, 429), (turn, status, body)
                    if status == 200:
                        good[index].add(body)
                sizes.append(service.memory())

        await asyncio.gather(*(one() for _ in range(TOGETHER)))

    with attacked() as service:
        asyncio.run(attack(service))
        assert service.process.poll() is None
        log = service.log.read_text()
    print({name: dict(found) for name, found in statuses.items()})
    print(f"memory: {sizes[0] / 2**20:.0f} MiB at first, {max(sizes) / 2**20:.0f} at most")
    assert "Traceback" not in log, log[log.index("Traceback") - 2000 :][:6000]
    assert not [name for name, found in statuses.items() if max(found) >= 500], statuses
    assert [len(answers) for answers in good.values()] == [1] * len(photos)
    before, after = sizes[: 2 * COUNT // 3], sizes[2 * COUNT // 3 :]
    assert max(after) - max(before) < GROWTH

"""Images of few bytes and many pixels, under an enforced limit of 2 GiB."""

import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

SIDE = 8000


def flat_webp(side: int) -> bytes:
    """A WebP of 38 bytes, whatever its size in pixels."""
    bits, place = 0x2F, 8
    fields = [(side - 1, 14), (side - 1, 14), (0, 1), (0, 3), (0, 1), (0, 1), (0, 1)]
    fields += [(1, 1), (0, 1), (0, 1), (0, 1)] * 5  # codes of one symbol, which is 0
    for value, width in fields:
        bits |= value << place
        place += width
    body = bits.to_bytes(18, "little")
    chunk = b"VP8L" + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


@pytest.mark.slow
def test_sixty_four_megapixels_at_once_neither_end_the_service_nor_hold_others_up(
    attacked: Any, two_gibibytes: Any, photographs: Path
) -> None:
    bomb = flat_webp(SIDE)
    assert len(bomb) == 38
    photo = (photographs / "coffee.jpg").read_bytes()
    waits: list[float] = []
    done = threading.Event()
    with attacked(two_gibibytes.path, deadline=240) as service:

        def post(data: bytes) -> int:
            headers = {"content-type": "image/webp"}
            url = f"{service.url}/v1/score"
            return httpx.post(url, content=data, headers=headers, timeout=300).status_code

        def ask() -> None:
            while not done.is_set():
                began = time.monotonic()
                assert post(photo) == 200
                waits.append(time.monotonic() - began)
                time.sleep(0.05)

        with ThreadPoolExecutor(5) as pool:
            asking = pool.submit(ask)
            answers = list(pool.map(post, [bomb] * 4))
            large = pool.submit(httpx.get, f"{service.url}/metrics").result()
            done.set()
            asking.result()
        assert service.process.poll() is None
        assert set(answers) <= {200, 413}, answers
        assert "isogon_decoding_bytes 0.0" in large.text
        waits.sort()
        print(
            f"answers {answers}, peak {two_gibibytes.peak / 2**20:.0f} MiB, photographs "
            f"meanwhile {len(waits)}, {waits[len(waits) // 2]:.2f} s, {waits[-1]:.2f} s"
        )
        assert two_gibibytes.peak <= two_gibibytes.limit
        assert waits[len(waits) // 2] < 3


def test_an_image_that_can_never_fit_is_refused_with_the_reason(attacked: Any) -> None:
    with attacked(max_decoding_bytes=200 * 2**20) as service:
        headers = {"content-type": "image/webp"}
        answer = httpx.post(
            f"{service.url}/v1/score", content=flat_webp(SIDE), headers=headers, timeout=60
        )
        assert answer.status_code == 413
        assert answer.json()["detail"] == (
            "images[0] needs 1,088,000,000 bytes of memory for decoding; the limit of "
            "this service is 209,715,200. Scale it down."
        )

"""Steady work: ISOGON_SOAK says for how many seconds, 15 minutes in full."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

SECONDS = float(os.environ.get("ISOGON_SOAK", "20"))
CLIENTS = 4
GROWTH = 32 * 2**20  # bytes, from the first half to the second


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_memory_and_answers_stay_the_same(attacked: Any, photographs: Path) -> None:
    photos = [path.read_bytes() for path in sorted(photographs.iterdir())]
    answers: dict[int, set[bytes]] = {index: set() for index in range(len(photos))}
    waits: list[float] = []
    over = threading.Event()

    def ask(url: str, first: int) -> None:
        with httpx.Client(base_url=url, timeout=60) as client:
            turn = first
            while not over.is_set():
                began = time.monotonic()
                index = turn % len(photos)
                kind = {"content-type": "image/jpeg"}
                answer = client.post("/v1/embed", content=photos[index], headers=kind)
                assert answer.status_code == 200, answer.text
                answers[index].add(answer.content)
                waits.append(time.monotonic() - began)
                turn += 1

    halves: list[list[int]] = [[], []]
    with attacked() as service, ThreadPoolExecutor(CLIENTS) as pool:
        asking = [pool.submit(ask, service.url, number) for number in range(CLIENTS)]
        began = time.monotonic()
        try:
            while (passed := time.monotonic() - began) < SECONDS:
                halves[passed > SECONDS / 2].append(service.memory())
                time.sleep(SECONDS / 100)
        finally:
            over.set()
        for each in asking:
            each.result()
    waits.sort()
    first, second = (max(each) for each in halves)
    print(
        f"{len(waits):,} requests, median {waits[len(waits) // 2] * 1000:.0f} ms, longest "
        f"{waits[-1] * 1000:.0f} ms; memory at most {first / 2**20:.0f} MiB in the first "
        f"half, {second / 2**20:.0f} in the second"
    )
    assert [len(each) for each in answers.values()] == [1] * len(photos)
    assert second - first < GROWTH

"""The in-process limit: the service's decoding and session without HTTP and batching.

It is a separate process, like the service. Each line of stdin is a JSON object, each line
of stdout its answer:

    {"images": "folder", "seconds": 3, "batch": 1, "workers": 2, "threads": 1}

`workers` threads take images in turn, decode `batch` of them as the service does and run
them in one shared session with `threads` threads per run. With `"decoded": true` images
are decoded before the clock starts: the bare session.
"""

import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
from http_load import quantile

from isogon.bundle import ONNX, Bundle
from isogon.images import decode
from isogon.runtimes import OnnxRunner, Runner


class InProcess:
    """A bundle's model in this process."""

    def __init__(self, path: Path) -> None:
        self._bundle = Bundle.open(path)
        self._preprocessing = self._bundle.manifest.preprocessing
        self._runners: dict[int | None, Runner] = {}
        self._images: dict[str, list[bytes]] = {}
        self._decoded: dict[str, list[np.ndarray]] = {}

    def answer(
        self,
        *,
        images: str,
        seconds: float,
        batch: int,
        workers: int,
        threads: int | None,
        decoded: bool = False,
    ) -> dict[str, object]:
        """Return images per second, and the quantiles of a batch's latency in seconds."""
        if images not in self._images:
            paths = sorted(Path(images).iterdir())
            self._images[images] = [path.read_bytes() for path in paths]
        runner = self._runner(threads)
        encoded = self._images[images]
        if decoded and images not in self._decoded:
            self._decoded[images] = [self._pixels(data) for data in encoded]
        counter = iter(range(sys.maxsize))
        lock = threading.Lock()
        latencies: list[float] = []

        def work(end: float) -> int:
            done = 0
            while (start := time.perf_counter()) < end:
                with lock:
                    chosen = list(islice(counter, batch))
                places = [number % len(encoded) for number in chosen]
                if decoded:
                    pixels = [self._decoded[images][place] for place in places]
                else:
                    pixels = [self._pixels(encoded[place]) for place in places]
                runner.run(np.stack(pixels))
                latencies.append(time.perf_counter() - start)
                done += batch
            return done

        start = time.perf_counter()
        with ThreadPoolExecutor(workers) as pool:
            done = sum(pool.map(work, [start + seconds] * workers))
        taken = time.perf_counter() - start
        return {
            "per_second": done / taken,
            "answered": len(latencies),
            "median": quantile(latencies, 0.5),
            "p99": quantile(latencies, 0.99),
        }

    def _pixels(self, data: bytes) -> np.ndarray:
        return self._preprocessing.pixels(decode(data))

    def _runner(self, threads: int | None) -> Runner:
        if threads not in self._runners:
            self._runners[threads] = OnnxRunner(self._bundle.file(ONNX), threads=threads)
        return self._runners[threads]


if __name__ == "__main__":
    model = InProcess(Path(sys.argv[1]))
    for line in sys.stdin:
        print(json.dumps(model.answer(**json.loads(line))), flush=True)

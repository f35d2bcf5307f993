"""`isogon serve --processes 2`: one port, summed metrics, and replaced processes."""

import itertools
import os
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from socket import create_connection
from typing import Any

import httpx
import psutil
import pytest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from isogon.errors import UsageError
from serving.observability.metrics import kept, summed
from serving.settings import Settings, settings_from_environment


def sample(client: httpx.Client, name: str) -> float:
    # A connection of its own: one that is kept ends with the process that it leads to.
    text = httpx.get(client.base_url.join("/metrics"), timeout=60).text
    found = re.search(rf"^{name}(?:{{.*}})? (\S+)$", text, re.M)
    return float(found[1]) if found else 0.0


def eventually(seconds: float = 20.0) -> Iterator[int]:
    end = time.monotonic() + seconds
    for number in itertools.count():
        if time.monotonic() > end:
            pytest.fail(f"It did not come true within {seconds} s.")
        yield number
        time.sleep(0.1)


def workers(process: Any) -> set[int]:
    return {child.pid for child in psutil.Process(process.pid).children()}


@pytest.fixture
def image(photographs: Path) -> bytes:
    return (photographs / "coffee.jpg").read_bytes()


def test_two_processes_answer_as_one_service(
    isogon_serve: Any, exported: Path, another: Path, image: bytes, tmp_path: Path
) -> None:
    """Counted together, restarted, reloaded and ended without a lost request."""
    served = tmp_path / "served"
    served.symlink_to(exported)
    with isogon_serve(served, "--processes", "2") as serving:
        first = workers(serving.process)
        assert len(first) == 2

        def ask(_: int) -> httpx.Response:
            with httpx.Client(base_url=serving.client.base_url, timeout=60) as client:
                return client.post("/v1/score", files={"images": image})

        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(ask, range(12)))
        assert {answer.status_code for answer in answers} == {200}
        for _ in eventually():  # the other one's figures are a second old
            if sample(serving.client, "isogon_images_total") == 12:
                break
        assert sample(serving.client, "isogon_ood_score_count") == 12
        assert sample(serving.client, "isogon_processes") == 2
        assert sample(serving.client, "isogon_build_info") == 1

        # One dies: what it counted stays, and another takes its place.
        os.kill(first.pop(), signal.SIGKILL)
        for _ in eventually():
            if sample(serving.client, "isogon_process_restarts_total") == 1:
                break
        assert sample(serving.client, "isogon_images_total") >= 12
        for _ in eventually():
            if serving.client.get("/readyz").status_code == 200:
                break
        second = workers(serving.process)
        assert len(second) == 2
        assert len(first & second) == 1
        log = serving.log.read_text()
        assert log.count("ended with signal 9. A new one is started.") == 1

        # A new bundle comes with new processes, which are there before the old ones go.
        served.unlink()
        served.symlink_to(another)
        serving.process.send_signal(signal.SIGHUP)
        names = set()
        for _ in eventually():
            answer = ask(0)
            assert answer.status_code == 200
            names.add(answer.json()["model"]["fingerprint"])
            if len(names) == 2 and not workers(serving.process) & second:
                break

        # All end, and what was asked before is answered.
        with ThreadPoolExecutor(4) as pool:
            pending = [pool.submit(ask, number) for number in range(4)]
            time.sleep(0.3)
            serving.process.terminate()
            assert {each.result().status_code for each in pending} == {200}
        assert serving.process.wait(20) == 0
        assert not any(psutil.pid_exists(pid) for pid in second)


def test_connections_are_spread_over_the_processes(
    isogon_serve: Any, exported: Path
) -> None:
    with isogon_serve(exported, "--processes", "2") as serving:

        def spread(connections: int) -> list[int]:
            """Open some at the same time; return how many each process has."""
            with ExitStack() as stack:
                for _ in range(connections):
                    address = ("127.0.0.1", serving.port)
                    stack.enter_context(create_connection(address))
                for _ in eventually():
                    found = [open_connections(pid) for pid in workers(serving.process)]
                    if sum(found) == connections:
                        break
            return found

        for _ in eventually():
            if spread(2) == [1, 1]:  # both accept by now
                break
        assert min(spread(20)) >= 8


def open_connections(pid: int) -> int:
    found = psutil.Process(pid).net_connections("tcp")
    return sum(each.status == "ESTABLISHED" for each in found)


def test_several_threads_are_for_one_process(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISOGON_THREADS", "2")
    with pytest.raises(UsageError, match=r"a single process, but .* processes is 2"):
        settings_from_environment(exported, {"processes": 2})


def test_each_process_has_its_share_and_room_for_one_request(exported: Path) -> None:
    settings = Settings(bundle=exported, processes=4, cores=8, queue=100)
    share = settings.of_each_process()
    assert share.cores == 2
    assert share.queue == settings.max_images == 64
    assert share.max_held_bytes == 2**27
    one = Settings(bundle=exported, processes=4, cores=2).of_each_process()
    assert one.cores == 1


def test_figures_are_added_and_what_must_not_be_is_not() -> None:
    def process(start: float, requests: float, depth: float) -> list[Metric]:
        counter = CounterMetricFamily("requests", "", labels=["route"])
        counter.add_metric(["/a"], requests)
        counter.add_metric([f"/{start}"], 1)
        return [
            counter,
            GaugeMetricFamily("depth", "", depth),
            GaugeMetricFamily("build_info", "", 1),
            GaugeMetricFamily("process_start_time_seconds", "", start),
        ]

    families = summed([process(2, 10, 3), process(1, 5, 4)])
    values = {
        (each.name, *each.labels.values()): each.value
        for family in families
        for each in family.samples
    }
    assert values == {
        ("requests_total", "/a"): 15,
        ("requests_total", "/2"): 1,
        ("requests_total", "/1"): 1,
        ("depth",): 7,
        ("build_info",): 1,
        ("process_start_time_seconds",): 1,
    }
    assert [family.name for family in kept(families)] == ["requests"]
    assert summed([families, []]) == families

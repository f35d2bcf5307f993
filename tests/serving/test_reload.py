"""A changed bundle is loaded while requests run, a faulty one is not; over real HTTP."""

import re
import shutil
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from isogon.bundle import GOLDEN, ONNX, Bundle

WITHIN = 20.0  # seconds


def fingerprint(path: Path) -> str:
    return Bundle.open(path).manifest.files[ONNX].sha256


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + WITHIN
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def lead_to(link: Path, target: Path) -> None:
    """Change the target of a link in one step."""
    new = link.with_name("new-link")
    new.symlink_to(target)
    new.replace(link)


def break_golden(path: Path) -> None:
    bundle = Bundle.open(path)
    arrays = bundle.arrays(GOLDEN)
    arrays["embeddings"] = -arrays["embeddings"]
    with bundle.stage("export") as stage:
        stage.write_arrays(GOLDEN, arrays)


def test_bundles_are_replaced_without_dropping_a_request(
    isogon_serve: Any, exported: Path, another: Path, photographs: Path, tmp_path: Path
) -> None:
    photo = (photographs / "grass_0.jpg").read_bytes()
    link = tmp_path / "current.isogon"
    link.symlink_to(exported)
    old, new = fingerprint(exported), fingerprint(another)
    seen: list[tuple[int, str]] = []
    enough = threading.Event()

    def ask(url: httpx.URL) -> None:
        with httpx.Client(base_url=url, timeout=60) as client:
            while not enough.is_set():
                answer = client.post("/v1/embed", files={"images": photo})
                model = answer.json().get("model", {})
                seen.append((answer.status_code, model.get("fingerprint")))

    with isogon_serve("--watch", link) as serving, ThreadPoolExecutor(4) as pool:
        askers = [pool.submit(ask, serving.client.base_url) for _ in range(4)]
        try:
            until(lambda: len(seen) > 8)
            lead_to(link, another)
            until(lambda: seen[-1][1] == new)

            # A bundle that fails its check is not taken up, nor tried again and again.
            bad = Path(shutil.copytree(exported, tmp_path / "bad.isogon"))
            break_golden(bad)
            lead_to(link, bad)
            until(lambda: "does not reproduce the golden" in serving.log.read_text())
            time.sleep(4)
            assert serving.log.read_text().count("does not reproduce the golden") == 1
            # SIGHUP to the process that was started tries at once, and refuses again.
            serving.process.send_signal(signal.SIGHUP)
            until(lambda: serving.log.read_text().count("not reproduce the golden") == 2)
            # A copy whose manifest came before its files: refused, then taken up.
            partial = Path(shutil.copytree(exported, tmp_path / "partial.isogon"))
            (partial / ONNX).rename(tmp_path / "model.onnx")
            lead_to(link, partial)
            until(lambda: "model.onnx is missing" in serving.log.read_text())
            assert seen[-1][1] == new
            (tmp_path / "model.onnx").rename(partial / ONNX)
            until(lambda: seen[-1][1] == old)
        finally:
            enough.set()
        for asker in askers:
            asker.result()
    assert {status for status, _ in seen} == {200}
    for asked in (old, new):
        assert sum(found == asked for _, found in seen) > 8


@pytest.mark.slow
def test_watching_continues_after_a_failed_check_and_forgets_a_removed_name(
    isogon_serve: Any, exported: Path, another: Path, tmp_path: Path
) -> None:
    link = tmp_path / "current.isogon"
    link.symlink_to(exported)
    renamed = Path(shutil.copytree(another, tmp_path / "renamed.isogon"))
    with isogon_serve("--watch", link) as serving:
        lead_to(link, link)  # leads nowhere: no look succeeds
        time.sleep(2.5)
        lead_to(link, renamed)
        until(
            lambda: (
                serving.client.get("/v1/model").json()["fingerprint"]
                == fingerprint(another)
            )
        )
        metrics = serving.client.get("/metrics").text
        names = set(
            re.findall(
                r'isogon_(?:drift_\w+|model_info|queue_\w+)\{.*?model="([^"]*)"', metrics
            )
        )
        assert names == {serving.client.get("/v1/model").json()["name"]}


@pytest.mark.parametrize("supervised", [False, True])
def test_without_watch_a_bundle_is_taken_up_at_sighup_only(
    isogon_serve: Any, exported: Path, another: Path, tmp_path: Path, supervised: bool
) -> None:
    """Also if BentoML's supervisor gets the signal."""
    link = tmp_path / "current.isogon"
    link.symlink_to(exported)
    with isogon_serve(exported, f"linked={link}", supervised=supervised) as serving:

        def served(model: str = "linked") -> str:
            query = {"model": model}
            found = serving.client.get("/v1/model", params=query).json()
            return str(found["fingerprint"])

        workers = children(serving.process.pid)
        assert bool(workers) == supervised
        lead_to(link, another)
        time.sleep(3)
        assert served() == fingerprint(exported)
        serving.process.send_signal(signal.SIGHUP)
        until(lambda: served() == fingerprint(another))
        assert served("digits") == fingerprint(exported)
        assert children(serving.process.pid) == workers  # the same process goes on


def children(pid: int) -> set[int]:
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
        if parent == pid:
            found.add(int(folder.name))
    return found

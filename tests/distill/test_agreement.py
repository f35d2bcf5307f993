"""What two real processes of a run compare before the first step."""

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from torch.distributed.elastic.multiprocessing.errors import (
    ChildFailedError,
    ProcessFailure,
)

from distill.recipe import TrainSection
from distill.training.agreement import require_agreement
from distill.training.processes import accompanied, any_of_all, launched
from isogon.cli.main import failure
from isogon.errors import ProcessError, UsageError
from isogon.images import open_images

Run = Callable[..., list[str]]


def folder_of(path: Path, count: int) -> Path:
    path.mkdir()
    for number in range(count):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(path / f"{number}.png")
    return path


def test_an_incomplete_copy_of_the_images_is_refused_by_numbers_and_names(
    tmp_path: Path, two_processes: Run
) -> None:
    folders = folder_of(tmp_path / "whole", 10), folder_of(tmp_path / "part", 6)

    def work(rank: int) -> None:
        fabric = launched(TrainSection(devices=2))
        sources = {"[data] images": open_images(str(folders[rank]))}
        require_agreement(fabric, sources, {"names of the images": f"digest {rank}"})

    first, second = two_processes(work)
    host = socket.gethostname()
    assert (
        f"process 1 on {host} found 6 images in [data] images, process 0 on {host} 10: it "
        f"lacks 6.png, 7.png, 8.png and 1 more." in first
    )
    assert second == "", "the first process of a host speaks for all"


def test_images_of_other_bytes_and_other_settings_are_refused(
    tmp_path: Path, two_processes: Run
) -> None:
    folders = folder_of(tmp_path / "a", 3), folder_of(tmp_path / "b", 3)
    Image.new("RGB", (64, 64)).resize((99, 99)).save(folders[1] / "1.png")

    def other_bytes(rank: int) -> None:
        fabric = launched(TrainSection(devices=2))
        sources = {"[data] images": open_images(str(folders[rank]))}
        require_agreement(fabric, sources, {})

    def other_steps(rank: int) -> None:
        fabric = launched(TrainSection(devices=2))
        require_agreement(fabric, {}, {"steps": 30 + rank, "train.seed": 0})

    def other_places(rank: int) -> None:
        fabric = launched(TrainSection(devices=2))
        images = open_images(str(folders[0]))
        sources = {"[data] images": images, "[[unfamiliar]] more": images}
        require_agreement(fabric, dict([*sources.items()][: 2 - rank]), {})

    assert "of the same names have other sizes" in two_processes(other_bytes)[0]
    assert "do not run the same: steps is 31 and 30." in (two_processes(other_steps)[0])
    assert "places of images is ['[data] images'] and [" in two_processes(other_places)[0]


def test_a_process_that_ends_is_reported_in_a_sentence(two_processes: Run) -> None:
    def work(rank: int) -> None:
        fabric = launched(TrainSection(devices=2))
        with accompanied(fabric):
            if rank == 1:
                os._exit(9)
            any_of_all(fabric, True)

    first, _ = two_processes(work)
    assert "has lost another process of this run" in first
    assert "Start all processes again to continue from the last checkpoint" in first
    assert "\n" not in first


def test_a_process_that_never_joins_is_not_waited_for_hours(
    two_processes: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISOGON_JOIN_MINUTES", "0.02")

    def work(rank: int) -> None:
        if rank == 0:
            launched(TrainSection(devices=2))

    first, _ = two_processes(work)
    assert "did not find each other at 127.0.0.1" in first
    assert "within 0.02 minutes" in first
    assert "With ISOGON_JOIN_MINUTES they wait longer." in first
    monkeypatch.setenv("ISOGON_JOIN_MINUTES", "soon")
    assert "as minutes, such as 30, got 'soon'" in two_processes(work)[0]


@pytest.mark.parametrize(
    ("program", "how"),
    [
        ("import os; os.kill(os.getpid(), 9)", "signal 9"),
        ("raise SystemExit(3)", "status 3"),
    ],
)
def test_a_started_process_that_ends_before_it_joins_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch, program: str, how: str
) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.setenv(name, "")  # restored afterwards
    monkeypatch.delenv("LOCAL_RANK")
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, "-c", program])
    with pytest.raises(ProcessError, match=f"Process 1 .* ended with {how} before it join"):
        launched(TrainSection(devices=2))


def test_a_started_process_ends_with_the_first_one(monkeypatch: pytest.MonkeyPatch) -> None:
    first, other = socket.socketpair()
    first.close()
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("ISOGON_FIRST_PROCESS", str(other.detach()))
    with pytest.raises(SystemExit):
        launched(TrainSection(devices=2))


def test_an_error_of_a_further_process_is_its_own(two_processes: Run) -> None:
    def work(rank: int) -> None:
        with accompanied(launched(TrainSection(devices=2))):
            if rank == 1:
                raise UsageError("This is wrong.")

    assert two_processes(work) == [
        "",
        f"Process 1 on {socket.gethostname()}: This is wrong.",
    ]


def test_a_host_that_calls_itself_loopback_is_refused_across_nodes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "localhost")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    for name in ("RANK", "GROUP_RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("MASTER_ADDR", "192.0.2.1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match=r"localhost, resolves to the loopback.*GLOO_SOCK"):
        launched(TrainSection(nodes=2))


def test_the_error_without_torchrun_says_how_to_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    with pytest.raises(UsageError, match="torchrun --nnodes 2 --nproc-per-node 1"):
        launched(TrainSection(nodes=2))


def test_torchruns_own_report_has_our_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(path))
    failure(ProcessError("Process 0 on a has lost another process of this run."))
    lost = ProcessFailure(local_rank=0, pid=1, exitcode=2, error_file=str(path))
    report = str(ChildFailedError("isogon", {0: lost}))
    assert "traceback : Process 0 on a has lost another process of this run.\n" in report

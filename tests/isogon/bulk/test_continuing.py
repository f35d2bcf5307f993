"""Runs that end early for any reason, and are continued."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import pytest
from rich.progress import Progress

from isogon.bulk import Executor, ProcessExecutor, Summary, embed
from isogon.bulk.job import part_size
from isogon.bundle.stage_writer import exclusive
from isogon.errors import BundleError, UsageError


class Run(Protocol):
    def __call__(
        self,
        output: Path,
        *,
        images: Path = ...,
        executor: Executor = ...,
        overwrite: bool = ...,
    ) -> Summary: ...


@pytest.fixture
def run(exported: Path, mixed: Path, progress: Progress) -> Run:
    def started(
        output: Path,
        *,
        images: Path = mixed,
        executor: Executor = ProcessExecutor(workers=2),  # noqa: B008
        overwrite: bool = False,
    ) -> Summary:
        return embed(
            exported, str(images), output, progress, executor=executor, overwrite=overwrite
        )

    return started


def test_a_stopped_run_goes_on_and_ends_with_the_same_bytes(
    embedded: Summary, stopped: Path, run: Run
) -> None:
    assert not stopped.exists()
    parts = stopped.with_name("out.parquet.parts")
    assert len(list(parts.glob("part-*.parquet"))) == 2
    summary = run(stopped)
    assert summary.continued == 128
    assert stopped.read_bytes() == embedded.output.read_bytes()
    assert not parts.exists()


def test_a_run_killed_between_its_file_and_the_end_is_ended(
    embedded: Summary, stopped: Path, run: Run
) -> None:
    shutil.copy(embedded.output, stopped)
    run(stopped)
    assert stopped.read_bytes() == embedded.output.read_bytes()
    assert not stopped.with_name("out.parquet.parts").exists()


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("fingerprint", "0" * 64, "fingerprint was 0000"),
        ("alpha", 0.5, "alpha was 0.5, now it is 0.05"),
        ("batch", 4, "batch was 4, now it is 8"),
        ("runner", "another", "runner was another"),
        ("version", "0.0.1", r"version was 0\.0\.1"),
        ("source", "", "the images have other names, classes, sizes or dates"),
        ("format", 2, "its record cannot be read"),
    ],
)
def test_a_run_begun_with_something_else_is_not_continued(
    stopped: Path, run: Run, field: str, value: object, says: str
) -> None:
    record = stopped.with_name("out.parquet.parts") / "run.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {field: value}))
    with pytest.raises(UsageError, match=f"{says}.*overwrite=True"):
        run(stopped)
    assert len(list(record.parent.glob("part-*.parquet"))) == 2


def test_a_run_begun_with_something_else_is_forgotten_when_asked(
    embedded: Summary, stopped: Path, run: Run
) -> None:
    record = stopped.with_name("out.parquet.parts") / "run.json"
    record.write_text("{}")
    summary = run(stopped, overwrite=True)
    assert summary.continued == 0
    assert stopped.read_bytes() == embedded.output.read_bytes()


def test_images_changed_meanwhile_are_noticed(
    stopping: Callable[[int], Executor], mixed: Path, tmp_path: Path, run: Run
) -> None:
    folder = Path(shutil.copytree(mixed, tmp_path / "images"))
    output = tmp_path / "out.parquet"
    with pytest.raises(KeyboardInterrupt):
        run(output, images=folder, executor=stopping(1))
    shutil.copy(folder / "0" / "000.png", folder / "0" / "010.png")
    with pytest.raises(UsageError, match="the images have other names, classes, sizes"):
        run(output, images=folder)


def test_a_damaged_part_is_named_and_done_again_once_removed(
    embedded: Summary, stopped: Path, run: Run
) -> None:
    part = min(stopped.with_name("out.parquet.parts").glob("part-*.parquet"))
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(UsageError, match=rf"{part.name} is damaged: .* Remove it"):
        run(stopped)
    part.unlink()
    run(stopped)
    assert stopped.read_bytes() == embedded.output.read_bytes()


def test_files_of_others_stay(mixed: Path, tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "out.parquet.parts"
    folder.mkdir()
    others = (folder / "mine.txt", tmp_path / "out.parquet.unreadable.csv")
    for other in others:
        other.write_text("somebody's")
    run(tmp_path / "out.parquet", images=mixed / "0")
    assert [other.read_text() for other in others] == ["somebody's"] * 2
    assert {path.name for path in folder.iterdir()} == {"mine.txt"}


def test_an_output_is_not_replaced_unasked(mixed: Path, tmp_path: Path, run: Run) -> None:
    output = tmp_path / "out.parquet"
    output.write_text("somebody's")
    (tmp_path / "out.parquet.unreadable.csv").write_text(
        "name,reason\r\n1.png,of an earlier run\r\n"
    )
    with pytest.raises(UsageError, match=r"exists already\..*overwrite=True"):
        run(output)
    assert output.read_text() == "somebody's"
    assert not output.with_name("out.parquet.parts").exists()
    run(output, images=mixed / "0", overwrite=True)
    assert output.read_bytes()[:4] == b"PAR1"
    assert not (tmp_path / "out.parquet.unreadable.csv").exists()


def test_one_run_at_a_time_makes_an_output(stopped: Path, run: Run) -> None:
    with (
        exclusive(stopped.with_name("out.parquet.parts")),
        pytest.raises(BundleError, match="Another process is writing"),
    ):
        run(stopped)


@pytest.mark.parametrize(
    ("output", "says"),
    [(".", "is a directory"), ("nowhere/out.parquet", "Expected a directory at")],
)
def test_the_output_needs_a_place(tmp_path: Path, run: Run, output: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        run(tmp_path / output)


@pytest.mark.parametrize(
    ("images", "batch", "size"),
    [(1, 8, 64), (240, 7, 70), (100_000, 8, 392), (10**8, 32, 2048), (10, 500, 500)],
)
def test_parts_are_whole_batches_of_bounded_size(
    images: int, batch: int, size: int
) -> None:
    assert part_size(images, batch) == size


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """The processes that embed, children of the one given."""
    text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    found = []
    for child in map(int, text.split()):
        with suppress(OSError):
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(child)
    return found


def kill_it(process: subprocess.Popen[str]) -> None:
    process.kill()


def kill_a_worker(process: subprocess.Popen[str]) -> None:
    os.kill(workers_of(process)[0], signal.SIGKILL)


def press_ctrl_c(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGINT)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds workers in /proc")
@pytest.mark.parametrize(
    ("end", "status", "says"),
    [
        (kill_it, -signal.SIGKILL, ""),
        (kill_a_worker, 2, "worker process was ended by SIGKILL"),
        (press_ctrl_c, 130, "Stopped. Run the same command again"),
    ],
)
def test_a_run_ended_at_any_moment_goes_on(
    exported: Path,
    many: Path,
    many_embedded: Summary,
    tmp_path: Path,
    end: Callable[[subprocess.Popen[str]], None],
    status: int,
    says: str,
) -> None:
    output = tmp_path / "out.parquet"
    parts = output.with_name("out.parquet.parts")
    command = [sys.executable, "-m", "isogon", "embed", exported]
    command += [many, "-o", output, "--workers", "2", "--json"]
    process = subprocess.Popen(
        [*map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not list(parts.glob("part-*.parquet")):
        assert process.poll() is None
        time.sleep(0.005)
    workers = workers_of(process)
    assert len(workers) == 2
    end(process)
    _, told = process.communicate(timeout=120)
    assert process.returncode == status
    assert says in " ".join(told.split())
    assert "Traceback" not in told
    assert not output.exists()
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < deadline, "a worker has outlived the run"
        time.sleep(0.05)
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert 64 <= summary["continued"] < 600
    assert output.read_bytes() == many_embedded.output.read_bytes()
    assert not parts.exists()

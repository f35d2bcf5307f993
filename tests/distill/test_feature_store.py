import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.progress import Progress

from distill.targets import FeatureStore, RowSource, StoreRecord, filled_store
from distill.targets.store import FEATURES, RECORD
from isogon.bundle import TeacherCard
from isogon.errors import UsageError

CARD = TeacherCard(
    architecture="vit", weights="w", licence="MIT", width=5, parameters=1
)  # fmt: skip
VALUES = torch.randn(24, 3, 5, generator=torch.Generator().manual_seed(0))


def record(**parts: int | str) -> StoreRecord:
    return StoreRecord(
        parts={"kind": "tokens"} | parts, shape=(6, 4, 3, 5), grid=(1, 2), teacher=CARD
    )


def source(values: torch.Tensor = VALUES, *, until: int = 24) -> RowSource:
    """Rows in batches of four; a failure after `until` of them."""

    def batches(start: int) -> Iterator[torch.Tensor]:
        for first in range(start, 24, 4):
            if first >= until:
                raise KeyboardInterrupt
            yield values[first : first + 4]

    return RowSource(batches=batches, image=lambda row: f"{row // 4}.png")


def test_rows_are_found_by_image_and_view(tmp_path: Path, progress: Progress) -> None:
    store = filled_store(tmp_path, record(), source(), progress)
    rows = store.read(np.array([5, 0, 3]), np.array([3, 1, 0]))
    assert torch.equal(rows, VALUES[[23, 1, 12]].half())
    again = FeatureStore(store.folder, record())
    assert np.array_equal(again.values.reshape(24, 3, 5), VALUES.half().numpy())


def test_an_interrupted_store_continues(tmp_path: Path, progress: Progress) -> None:
    with pytest.raises(KeyboardInterrupt):
        filled_store(tmp_path, record(), source(until=12), progress, sync_seconds=0.0)
    starts = []

    def batches(start: int) -> Iterator[torch.Tensor]:
        starts.append(start)
        return source().batches(start)

    resumed = RowSource(batches=batches, image=str)
    store = filled_store(tmp_path, record(), resumed, progress)
    filled_store(tmp_path, record(), resumed, progress)
    assert starts == [12]
    assert np.array_equal(store.values.reshape(24, 3, 5), VALUES.half().numpy())


def test_a_store_says_what_it_holds(tmp_path: Path, progress: Progress) -> None:
    store = filled_store(tmp_path, record(seed=3), source(), progress)
    read = StoreRecord.model_validate_json((store.folder / RECORD).read_bytes())
    assert read == record(seed=3)
    assert store.folder.name == record(seed=3).key[:20] != record(seed=4).key[:20]


def test_a_feature_that_float16_does_not_hold_names_the_image(
    tmp_path: Path, progress: Progress
) -> None:
    values = VALUES.clone()
    values[9, 1, 2] = 7e4
    with pytest.raises(UsageError, match=r"of 2\.png reach 7e\+04.*online"):
        filled_store(tmp_path, record(), source(values), progress)
    with pytest.raises(UsageError, match=r"of 2\.png reach 7e\+04.*another teacher"):
        filled_store(tmp_path, record(kind="plain"), source(values), progress)


@pytest.mark.parametrize(
    ("value", "said"), [(float("nan"), "NaN"), (float("-inf"), "infinite values")]
)
def test_a_feature_that_is_not_finite_names_teacher_and_image(
    tmp_path: Path, progress: Progress, value: float, said: str
) -> None:
    values = VALUES.clone()
    values[9, 1, 2] = value
    with pytest.raises(UsageError, match=f"teacher vit gives {said} for the image 2.png"):
        filled_store(tmp_path, record(), source(values), progress)


def test_too_small_a_disk_is_refused_before_anything_is_computed(
    tmp_path: Path, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=719))
    with pytest.raises(UsageError, match=r"720 B at .*, 719 B are free") as caught:
        filled_store(tmp_path, record(), source(until=0), progress)
    for remedy in ("lower `views` (180 B each)", '"embedding"` (240 B)', "`cache`"):
        assert remedy in str(caught.value)
    assert not list(tmp_path.rglob(FEATURES))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=720))
    filled_store(tmp_path, record(), source(), progress)


def test_what_is_computed_already_needs_no_room(
    tmp_path: Path, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        filled_store(tmp_path, record(), source(until=12), progress, sync_seconds=0.0)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=360))
    filled_store(tmp_path, record(), source(), progress)


def test_a_disk_that_fills_up_during_the_work_is_reported(
    tmp_path: Path, progress: Progress
) -> None:
    folder = tmp_path / record().key[:20]
    folder.mkdir()
    (folder / FEATURES).symlink_to("/dev/full")
    with pytest.raises(UsageError, match=r"No space left.*run again"):
        filled_store(tmp_path, record(), source(), progress)


@pytest.mark.parametrize("fault", ["short", "gone", "other", "no JSON"])
def test_a_damaged_store_says_what_to_remove(
    tmp_path: Path, progress: Progress, fault: str
) -> None:
    store = filled_store(tmp_path, record(), source(), progress)
    path = store.folder / FEATURES
    match fault:
        case "short":
            path.write_bytes(path.read_bytes()[:-1])
        case "gone":
            path.unlink()
        case "other":
            np.save(path, np.zeros((6, 4, 3, 5), np.float32))
        case "no JSON":
            (store.folder / RECORD).write_text("{")
    with pytest.raises(UsageError, match=f"{store.folder} are damaged.*Remove this folder"):
        filled_store(tmp_path, record(), source(), progress)


def test_one_computes_and_the_other_waits(tmp_path: Path, progress: Progress) -> None:
    started, go_on = threading.Event(), threading.Event()
    computed, found = [], []

    def batches(start: int) -> Iterator[torch.Tensor]:
        computed.append(start)
        started.set()
        assert go_on.wait(30)
        return source().batches(start)

    def run() -> None:
        slow = RowSource(batches=batches, image=str)
        found.append(filled_store(tmp_path, record(), slow, progress))

    threads = [threading.Thread(target=run) for _ in range(2)]
    threads[0].start()
    assert started.wait(30)
    threads[1].start()
    threads[1].join(0.3)
    assert threads[1].is_alive()
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert computed == [0]
    assert [store.values.shape for store in found] == [(6, 4, 3, 5)] * 2


def test_a_cache_that_cannot_be_made_is_reported(
    tmp_path: Path, progress: Progress
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="Name another `cache`"):
        filled_store(tmp_path / "file", record(), source(), progress)

"""The processes that read images: killed, or without shared memory."""

import os
import signal
from collections.abc import Iterator

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from distill.images.loading import Loader, readers_watched
from isogon.errors import UsageError


class Faulty(Dataset[torch.Tensor]):
    """Images, one of which ends the process that reads it."""

    def __init__(self, fault: signal.Signals | Exception) -> None:
        self._fault = fault

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == 3:
            if isinstance(self._fault, Exception):
                raise self._fault
            os.kill(os.getpid(), self._fault)
        return torch.zeros(4)


def read(fault: signal.Signals | Exception) -> Iterator[torch.Tensor]:
    yield from Loader(DataLoader(Faulty(fault), batch_size=2, num_workers=1))


def test_a_killed_reader_is_reported_with_a_remedy() -> None:
    with pytest.raises(
        UsageError, match=r"^A process that reads images .*workers`"
    ) as told:
        with readers_watched():
            list(read(signal.SIGKILL))
    assert "\n" not in str(told.value)
    assert "run the same command again" in str(told.value)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("unable to write to file </torch_1_2>: No space left on device (28)"),
        RuntimeError("unable to allocate shared memory(shm) for file </torch_7>: (28)"),
        OSError(28, "No space left on device"),
    ],
)
def test_no_room_in_shared_memory_is_reported_with_both_remedies(error: Exception) -> None:
    with pytest.raises(UsageError, match=r"/dev/shm.*`workers = 0`.*--shm-size") as told:
        list(read(error))
    assert "\n" not in str(told.value)


def test_a_bus_error_is_reported_as_lack_of_shared_memory() -> None:
    words = (
        "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that "
        "dataloader's workers are out of shared memory."
    )
    with pytest.raises(UsageError, match="--shm-size"), readers_watched():
        raise RuntimeError(words)


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shape"), readers_watched():
        raise RuntimeError("shape [3] in DataLoader worker process 0")
    with pytest.raises(OSError, match="No space"), readers_watched():
        raise OSError(28, "No space left on device", "/out/features.bin")

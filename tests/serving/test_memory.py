"""What a container's limit on memory is taken for, and what large images make of it."""

import threading
from pathlib import Path

import pytest

from isogon.images import DecodingCost
from serving.batching.room import SMALL_BYTES, LargeImageError, Room, Ticket
from serving.memory import machine_memory, resident_memory

MACHINE = machine_memory(Path("/nowhere"), Path("/nowhere"))


def test_without_control_groups_it_is_the_machines() -> None:
    assert MACHINE > 2**28
    assert 2**20 < resident_memory() < MACHINE


@pytest.mark.parametrize(
    ("line", "file"),
    [
        ("0::/app", "app/memory.max"),
        ("0::/app/worker", "app/memory.max"),  # the limit of a group around it
        ("0::/docker/1f", "memory.max"),  # inside of a container
        ("7:memory:/app", "memory/app/memory.limit_in_bytes"),
        ("7:cpu,memory:/docker/1f", "memory/memory.limit_in_bytes"),
    ],
)
def test_a_limit_of_either_version_counts(tmp_path: Path, line: str, file: str) -> None:
    own = tmp_path / "own"
    own.write_text(f"3:pids:/\n{line}\n")
    limit = tmp_path / "groups" / file
    limit.parent.mkdir(parents=True)
    limit.write_text("268435456\n")
    assert machine_memory(tmp_path / "groups", own) == 268435456
    limit.write_text("max\n")
    assert machine_memory(tmp_path / "groups", own) == MACHINE


def large(size: int) -> DecodingCost:
    return DecodingCost(bytes=size, work=0)


def test_small_images_pass_and_large_ones_stand_in_line() -> None:
    room = Room(100, most=8)
    room.admit(large(SMALL_BYTES))
    with pytest.raises(LargeImageError):
        room.admit(large(SMALL_BYTES + 1))
    with pytest.raises(LargeImageError):
        room.admit(DecodingCost(bytes=0, work=10**8))  # it takes little memory, and long


def test_who_came_first_is_called_first_and_memory_is_never_exceeded() -> None:
    room = Room(100, most=8)
    called: list[Ticket] = []

    def call(ticket: Ticket) -> bool:
        called.append(ticket)
        return True

    first, second, third = (Ticket(size, call) for size in (60, 50, 10))
    for ticket in (first, second, third):
        room.enter(ticket)
    assert called == [first]  # the third would fit, but it is not its turn
    assert room.used == 60
    room.leave(first)
    assert called == [first, second, third]
    assert room.used == 60


def test_no_more_than_so_many_are_decoded_at_a_time() -> None:
    room = Room(100, most=2)
    called: list[Ticket] = []
    tickets = [Ticket(1, lambda ticket: called.append(ticket) is None) for _ in range(3)]
    for ticket in tickets:
        room.enter(ticket)
    assert called == tickets[:2]
    room.leave(tickets[0])
    assert called == tickets


def test_who_is_gone_when_called_takes_no_room() -> None:
    room = Room(100, most=1)
    called = threading.Event()
    room.enter(Ticket(100, lambda _: False))
    room.enter(Ticket(100, lambda _: not called.set()))
    assert called.is_set()
    assert room.used == 100

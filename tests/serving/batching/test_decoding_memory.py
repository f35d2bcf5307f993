"""Large images share the memory for decoding, and wait for each other."""

import threading

import pytest

from isogon.images import DecodingCost
from serving.batching.decoding_memory import SMALL_BYTES, LargeImageError, Room, Ticket


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

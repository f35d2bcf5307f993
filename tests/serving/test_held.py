"""Memory for bodies, without a server; the test sets the time."""

from typing import Any

import pytest

from serving.limits.body_limits import HeldBodies, IncomingBody, NoRoomError

MEBIBYTE = 2**20


class Bodies:
    """The held bodies, and those that were cut off."""

    def __init__(self, limit: int, share: int) -> None:
        self.held = HeldBodies(limit, share)
        self.cut_off: list[str] = []

    def begin(self, client: str, now: float = 0.0) -> IncomingBody:
        body = IncomingBody(client, now, lambda: self.cut_off.append(client))
        self.held.begin(body)
        return body


def refused(held: HeldBodies, *arguments: Any) -> NoRoomError:
    with pytest.raises(NoRoomError) as caught:
        held.add(*arguments)
    return caught.value


def test_bodies_count_until_they_are_let_go() -> None:
    bodies = Bodies(100, 100)
    first, second = bodies.begin("a"), bodies.begin("b")
    bodies.held.add(first, 70, 0.0)
    error = refused(bodies.held, second, 31, 0.1)
    assert (error.reason, error.held, error.limit) == ("memory", 70, 100)
    bodies.held.release(first, 0.2)
    bodies.held.add(second, 31, 0.3)
    assert bodies.held.total == 31
    bodies.held.release(second, 0.4)
    bodies.held.release(second, 0.4)
    assert bodies.held.total == 0


def test_a_client_has_its_share_and_others_have_the_rest() -> None:
    bodies = Bodies(100, 50)
    greedy = bodies.begin("greedy")
    bodies.held.add(greedy, 51, 0.0)  # one body may always come to its own limit
    bodies.held.release(greedy, 0.0)
    bodies.held.add(bodies.begin("greedy"), 50, 0.0)
    assert refused(bodies.held, bodies.begin("greedy"), 1, 0.0).reason == "client"
    bodies.held.add(bodies.begin("other"), 50, 0.0)


@pytest.mark.parametrize("trickle", [False, True])
def test_who_sends_much_and_then_nearly_nothing_gives_way(trickle: bool) -> None:
    bodies = Bodies(100 * MEBIBYTE, 100 * MEBIBYTE)
    slow, fast = bodies.begin("slow"), bodies.begin("fast")
    bodies.held.add(slow, 60 * MEBIBYTE, 0.1)
    now = 0.1
    for step in range(1, 80):
        now = step / 10
        bodies.held.add(fast, MEBIBYTE // 4, now)
        if trickle:
            bodies.held.add(slow, 1, now)
    new = bodies.begin("new", now)
    bodies.held.add(new, 50 * MEBIBYTE, now)
    assert bodies.cut_off == ["slow"]
    bodies.held.add(slow, 1, now)  # what was on its way counts no more
    assert bodies.held.total == fast.bytes + new.bytes


def test_a_body_that_is_complete_or_too_small_to_help_is_not_cut_off() -> None:
    bodies = Bodies(100 * MEBIBYTE, 100 * MEBIBYTE)
    slow, done = bodies.begin("slow"), bodies.begin("done")
    bodies.held.add(slow, 10 * MEBIBYTE, 0.0)
    bodies.held.add(done, 80 * MEBIBYTE, 0.0)
    bodies.held.complete(done)
    refused(bodies.held, bodies.begin("new", 9.0), 50 * MEBIBYTE, 9.0)
    assert bodies.cut_off == []


def test_how_long_to_wait_follows_from_what_became_free() -> None:
    bodies = Bodies(100, 100)
    for _ in range(10):
        body = bodies.begin("a")
        bodies.held.add(body, 50, 0.0)
        bodies.held.release(body, 1.0)  # 500 bytes in ten seconds
    bodies.held.add(bodies.begin("a"), 100, 1.0)
    assert refused(bodies.held, bodies.begin("b"), 100, 1.0).retry_after == 2.0

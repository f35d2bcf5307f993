"""What Isogon asks of the process in which `bentoml serve` looks after its worker."""

from functools import partial
from typing import Any

import bentoml.serving

COULD_NOT_START = 3  # the exit status, as uvicorn has it
KEPT_ALIVE = 75  # seconds; proxies keep an idle connection for 60 and want to end it
GRACE = 35  # seconds; ISOGON_DEADLINE and 5, unless it was set


def supervise() -> None:
    """Give BentoML's arbiter (circus) and its worker the options that we want.

    Circus answers SIGHUP with a new worker while the old one closes its connections, and
    starts a worker that cannot load its models again for ever. The worker closes idle
    connections after 5 seconds, and waits without end for those that hang. BentoML hands
    the first two through not at all, and the others only from its command line. So this
    goes before its `create_watcher` and `construct_timeouts_args` are called.
    """
    bentoml.serving.create_watcher = partial(
        bentoml.serving.create_watcher,
        send_hup=True,
        hooks={"after_reap": (_end_if_it_could_not_start, False)},
    )
    arguments = bentoml.serving.construct_timeouts_args

    def with_ours(
        timeout_keep_alive: int | None, timeout_graceful_shutdown: int | None
    ) -> list[str]:
        kept, grace = timeout_keep_alive, timeout_graceful_shutdown
        found: list[str] = arguments(kept or KEPT_ALIVE, grace or GRACE)
        return found

    bentoml.serving.construct_timeouts_args = with_ours


def _end_if_it_could_not_start(watcher: Any, exit_code: int | None, **_: object) -> None:
    if exit_code == COULD_NOT_START:
        watcher.respawn = False

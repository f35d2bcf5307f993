"""Options for the supervisor of `bentoml serve` and for its worker."""

from functools import partial
from typing import Any

import bentoml.serving

COULD_NOT_START = 3  # exit status, as in uvicorn
KEPT_ALIVE = 75  # seconds; proxies keep an idle connection for 60 and should end it first
GRACE = 35  # seconds; the default of ISOGON_DEADLINE, and 5


def supervise() -> None:
    """Set options of BentoML's supervisor (circus) and of its worker.

    By default circus replaces the worker at SIGHUP, which closes its connections, and
    restarts a worker that cannot load its models for ever. The worker closes idle
    connections after 5 seconds, and waits for hung ones without a limit. BentoML has no
    setting for the first two, and only command-line options for the others. So this wraps
    its `create_watcher` and `construct_timeouts_args` before they are called.
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

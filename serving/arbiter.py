"""What Isogon asks of the process in which BentoML looks after its workers (circus)."""

from functools import partial
from typing import Any

import bentoml.serving

COULD_NOT_START = 3  # the exit status, as uvicorn has it


def supervise() -> None:
    """Make the arbiter pass SIGHUP on, and end when a worker cannot load its models.

    By itself circus answers SIGHUP with a new worker while the old one closes its
    connections, and starts a worker again for ever. Both are options of circus; BentoML
    does not hand them through, so this goes before its `create_watcher` is called.
    """
    bentoml.serving.create_watcher = partial(
        bentoml.serving.create_watcher,
        send_hup=True,
        hooks={"after_reap": (_end_if_it_could_not_start, False)},
    )


def _end_if_it_could_not_start(watcher: Any, exit_code: int | None, **_: object) -> None:
    if exit_code == COULD_NOT_START:
        watcher.respawn = False

"""W&B and MLflow: a run's figures in the tracker that a team uses, besides the journal.

Both are Lightning's own loggers. Nothing leaves the machine unless the environment says so:
W&B is offline without `WANDB_MODE`, and MLflow writes a database into the run's folder
without `MLFLOW_TRACKING_URI`.
"""

import json
import logging
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from distill.evaluation.comparison import compared
from distill.recipe import Recipe
from distill.training.checkpoint import is_first_process
from isogon.bundle import Bundle
from isogon.bundle.evaluation import Evaluation
from isogon.errors import UsageError
from isogon.progress import Progress, say

# What each logger imports; the extra of its name installs it.
PACKAGES = {
    "wandb": ("wandb", "pytorch_lightning"),
    "mlflow": ("mlflow", "sqlalchemy", "alembic", "pytorch_lightning"),
}
_IDENTIFIERS = "loggers.json"  # of the run in each logger, in the run's folder
_PROJECT = "isogon"
_NOT_IN_NAMES = re.compile(r"[^\w/. -]")  # what MLflow does not take in a metric's name


def require_loggers(names: Iterable[str]) -> None:
    """Refuse loggers whose packages are not installed.

    Raises:
        UsageError: names the package and the extra.
    """
    for name in names:
        for package in PACKAGES[name]:
            if find_spec(package) is None:
                raise UsageError(
                    f"The logger {name!r} needs the package {package!r}, which is not "
                    f"installed. Install the extra `{name}`: `pip install '.[{name}]'` in "
                    f"the folder of Isogon's source; or leave {name!r} out of `loggers` in "
                    f"[train]."
                )


class RunLoggers:
    """The recipe's loggers; only the first process of a run writes to them.

    They are opened at the first step. One that cannot be opened ends the run; one that
    fails later is left out, because the journal has every figure.
    """

    def __init__(self, recipe: Recipe, work: Path, progress: Progress) -> None:
        """Open nothing yet.

        Args:
            recipe: of the run.
            work: the run's folder.
            progress: where to say what is logged.
        """
        self._recipe = recipe
        self._work = work
        self._progress = progress
        first = is_first_process(recipe.train)
        self._names = recipe.train.loggers if first else ()
        self._opened: dict[str, Any] | None = None  # Lightning's loggers
        self._step = 0

    def open(self, *, start: int) -> None:
        """Begin the run in each logger; from a `start` above 0 continue the one before.

        Raises:
            UsageError: a logger cannot be opened.
        """
        if self._opened is not None:
            return
        opened: dict[str, Any] = {}
        self._opened, self._step = opened, start
        path = self._work / _IDENTIFIERS
        before = json.loads(path.read_text()) if start and path.exists() else {}
        for name in self._names:
            try:
                with _quiet():
                    logger = self._started(name, before.get(name))
            except Exception as error:  # each has errors of its own
                raise UsageError(
                    f"The logger {name!r} cannot be opened: {_first_line(error)}. Correct "
                    f"this, or leave {name!r} out of `loggers` in [train]."
                ) from error
            opened[name] = logger
            before[name] = str(logger.version)
            say(self._progress, _PLACES[name](self._work))
        if self._names:
            path.write_text(json.dumps(before))

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Record figures of a step."""
        self._step = step
        opened = self._opened or {}
        for name, logger in list(opened.items()):
            try:
                with _quiet():
                    logger.log_metrics(_named(figures), step=step)
            except Exception as error:
                del opened[name]
                say(
                    self._progress,
                    f"The logger {name!r} fails and is left out from step {step}: "
                    f"{_first_line(error)}. metrics.jsonl has every figure.",
                )

    def conclude(self, bundle: Bundle, evaluation: Evaluation) -> None:
        """Record the figures of the finished student, and of its baselines."""
        self.open(start=0)  # a run of 0 epochs has no step
        figures = compared({"student": (bundle.manifest, evaluation)})
        self.write(
            self._step,
            {
                f"{who.removeprefix('student, ')}/{one.name.replace('@', ' at ')}": value
                for one in figures
                for who, value in one.values.items()
            },
        )

    def close(self, status: str) -> None:
        """Close the run as MLflow's FINISHED, FAILED or KILLED."""
        for name, logger in (self._opened or {}).items():
            try:
                with _quiet():
                    if name == "wandb":
                        logger.experiment.finish(exit_code=int(status != "FINISHED"))
                    else:
                        logger.finalize(status)
            except Exception as error:  # the bundle is not lost for this
                say(
                    self._progress,
                    f"The logger {name!r} cannot be closed: {_first_line(error)}.",
                )
        self._opened = None

    def _started(self, name: str, identifier: str | None) -> Any:
        """Return Lightning's logger of this name, whose run has begun, or goes on."""
        logger = _MAKERS[name](self._recipe.name, self._work, identifier)
        _ = logger.experiment
        if identifier is None:
            logger.log_hyperparams(self._recipe.model_dump(mode="json"))
        elif name == "mlflow":
            logger.experiment.update_run(identifier, status="RUNNING")
        return logger


@contextmanager
def run_loggers(recipe: Recipe, work: Path, progress: Progress) -> Iterator[RunLoggers]:
    """Close the recipe's loggers as the run ends: finished, failed, or stopped."""
    loggers = RunLoggers(recipe, work, progress)
    status = "FAILED"
    try:
        yield loggers
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        loggers.close(status)


def _wandb(name: str, work: Path, identifier: str | None) -> Any:
    # Before the import, and not as an argument: until W&B has read an argument it starts
    # to report on itself over the network.
    os.environ.setdefault("WANDB_MODE", "offline")
    import wandb
    from pytorch_lightning.loggers import WandbLogger

    return WandbLogger(
        name=os.environ.get("WANDB_NAME", name),
        project=os.environ.get("WANDB_PROJECT", _PROJECT),
        save_dir=os.environ.get("WANDB_DIR", work),
        id=identifier,
        # Its lines would be written into the progress bars.
        settings=wandb.Settings(console="off", silent=True),
    )


def _wandb_place(work: Path) -> str:
    folder = Path(os.environ.get("WANDB_DIR", work)) / "wandb"
    if (mode := os.environ["WANDB_MODE"]) != "offline":
        return f"W&B logs this run with WANDB_MODE={mode}."
    return (
        f"W&B logs this run offline; `wandb sync {folder}/offline-run-*` sends it, "
        f"WANDB_MODE=online does so at once."
    )


def _mlflow(name: str, work: Path, identifier: str | None) -> Any:
    from pytorch_lightning.loggers import MLFlowLogger

    return MLFlowLogger(
        experiment_name=os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT),
        run_name=name,
        tracking_uri=_mlflow_uri(work),
        run_id=identifier,
        artifact_location=str((work / "mlruns").resolve()),
    )


def _mlflow_uri(work: Path) -> str:
    # MLflow 3 refuses a folder of files; a database is what it recommends.
    own = f"sqlite:///{(work / 'mlflow.db').resolve()}"
    return os.environ.get("MLFLOW_TRACKING_URI") or own


def _mlflow_place(work: Path) -> str:
    uri = _mlflow_uri(work)
    if os.environ.get("MLFLOW_TRACKING_URI"):
        return f"MLflow logs this run at {uri}."
    return f"MLflow logs this run; `mlflow ui --backend-store-uri {uri}` shows it."


_MAKERS = {"wandb": _wandb, "mlflow": _mlflow}
_PLACES = {"wandb": _wandb_place, "mlflow": _mlflow_place}


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the packages' warnings to their own authors, and their lines on stderr."""
    for name in ("mlflow", "alembic", "pytorch_lightning", "wandb"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _named(figures: Mapping[str, float]) -> dict[str, float]:
    return {_NOT_IN_NAMES.sub("", name): value for name, value in figures.items()}


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__

"""Executors run the parts of a job: in processes of this machine, or on a Ray cluster."""

from isogon.bulk.executors.executor import Executor as Executor
from isogon.bulk.executors.processes import ProcessExecutor as ProcessExecutor

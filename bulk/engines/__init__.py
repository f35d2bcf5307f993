"""Engines: who does the parts of a job."""

from bulk.engines.engine import Engine as Engine
from bulk.engines.processes import ProcessEngine as ProcessEngine

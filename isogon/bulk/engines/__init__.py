"""Engines: who does the parts of a job."""

from isogon.bulk.engines.engine import Engine as Engine
from isogon.bulk.engines.processes import ProcessEngine as ProcessEngine

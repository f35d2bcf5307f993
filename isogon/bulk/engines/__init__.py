"""Engines run the parts of a job: in processes of this machine, or on a Ray cluster."""

from isogon.bulk.engines.engine import Engine as Engine
from isogon.bulk.engines.processes import ProcessEngine as ProcessEngine

"""Evaluation: what was kept of the teacher, and what the embeddings are good for.

Only the schema is exported here; it loads in an instant. `evaluate` measures.
"""

from isogon.bundle.evaluation import (
    Baseline as Baseline,
    Bootstrap as Bootstrap,
    ClassAccuracy as ClassAccuracy,
    Corruptions as Corruptions,
    Cost as Cost,
    Estimate as Estimate,
    Evaluation as Evaluation,
    Fidelity as Fidelity,
    Kind as Kind,
    OodFigures as OodFigures,
    Quality as Quality,
    Role as Role,
    Training as Training,
    UnfamiliarSet as UnfamiliarSet,
)

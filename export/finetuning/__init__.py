"""Fine-tuning of int8: the graph that is exported, trained against its float32 self."""

from export.finetuning.tuning import (
    FINETUNING_STEPS as FINETUNING_STEPS,
    finetuned as finetuned,
)

"""Fine-tuning of int8: train the exported graph to give its float32 version's answers."""

from export.finetuning.tuning import finetuned as finetuned

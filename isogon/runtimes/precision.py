"""The precisions of artifacts."""

from typing import Literal

Precision = Literal["fp32", "fp16", "int8"]

"""From encoded images to answers: decoding, batches, runs, and their limits."""

from serving.batching.pipeline import (
    Pipeline as Pipeline,
    RefusedImageError as RefusedImageError,
)

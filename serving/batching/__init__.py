"""From encoded images to outputs: decoding, batches, runs, and their limits."""

from serving.batching.decoding_memory import Room as Room
from serving.batching.job import (
    ClosedError as ClosedError,
    DeadlineError as DeadlineError,
    NoMemoryError as NoMemoryError,
    QueueFullError as QueueFullError,
    RefusedImageError as RefusedImageError,
    RunError as RunError,
)
from serving.batching.measurement import BatchPlan as BatchPlan
from serving.batching.observer import (
    Observer as Observer,
    Trail as Trail,
)
from serving.batching.pipeline import (
    Pipeline as Pipeline,
    plan_for as plan_for,
)

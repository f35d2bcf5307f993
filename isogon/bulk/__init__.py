"""Bulk embedding: many images to one Parquet file. No torch.

The images are divided into parts. One function, `embed_part`, embeds a part in a process
of this machine or on Ray. Each part is written when it is finished, so that a stopped run
continues from its finished parts.
"""

from isogon.bulk.embedding import Summary as Summary, embed as embed
from isogon.bulk.executors import Executor as Executor, ProcessExecutor as ProcessExecutor

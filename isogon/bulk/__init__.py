"""Bulk: a bundle's embeddings of many images as one Parquet file. No torch.

The images are divided into parts. A part is embedded by one function, `embed_part`, in
processes of this machine or on Ray, and written before the next is given out; so a run
that ends early is continued where it was.
"""

from isogon.bulk.embedding import Summary as Summary, embed as embed
from isogon.bulk.engines import Engine as Engine, ProcessEngine as ProcessEngine

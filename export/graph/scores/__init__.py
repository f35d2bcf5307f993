"""The numpy detectors of `isogon.ood` as torch modules, one file per detector or family.

Every module of this folder is imported here and registers its detectors.
"""

import pkgutil
from importlib import import_module

from export.graph.scores.score import score_of as score_of

for _found in pkgutil.iter_modules(__path__):
    import_module(f"{__name__}.{_found.name}")

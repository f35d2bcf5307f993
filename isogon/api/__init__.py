"""The functions of `import isogon`. The commands of the same names call them.

Each function imports its stage when it is called, and prints only to `progress`, if given.
"""

from isogon.api.exporting import (
    calibrate as calibrate,
    diverge as diverge,
    export as export,
    judge as judge,
    verify as verify,
)
from isogon.api.inspecting import inspect as inspect
from isogon.api.serving import embed as embed, load as load, serve as serve
from isogon.api.training import (
    compare as compare,
    distill as distill,
    evaluate as evaluate,
    recipe as recipe,
)
from isogon.hub import pull as pull, push as push

"""What `import isogon` offers: a function for each stage. The command line calls them too.

Each loads its stage when it is called, and is silent unless it is given `progress`.
"""

from isogon.api.answering import embed as embed, load as load, serve as serve
from isogon.api.proving import (
    calibrate as calibrate,
    diverge as diverge,
    export as export,
    export_trained as export_trained,
    judge as judge,
    verify as verify,
)
from isogon.api.training import (
    Comparison as Comparison,
    compare as compare,
    distill as distill,
    evaluate as evaluate,
    evaluation as evaluation,
)

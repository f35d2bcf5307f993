"""What the command line shows: results on stdout, progress and errors on stderr."""

from console.answers_table import answers as answers
from console.comparison_table import comparison as comparison
from console.detector_table import detector as detector
from console.divergence_table import divergence as divergence
from console.embedding_table import embedded as embedded
from console.evaluation_tables import evaluation as evaluation
from console.export_tables import (
    exported as exported,
    verified as verified,
    weights as weights,
)
from console.failures import failure as failure
from console.inspection_tables import inspection as inspection
from console.parity_table import parity as parity
from console.published import published as published
from console.quickstart_table import quickstart as quickstart
from console.recipe import recipe as recipe, written_recipe as written_recipe
from console.terminal import (
    as_json as as_json,
    loading as loading,
    needing as needing,
    note as note,
    progress as progress,
)

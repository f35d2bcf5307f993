"""What the command line shows: results on stdout, progress and errors on stderr."""

from isogon.cli.answers_table import answers as answers
from isogon.cli.comparison_table import comparison as comparison
from isogon.cli.detector_table import detector as detector
from isogon.cli.divergence_table import divergence as divergence
from isogon.cli.embedding_table import embedded as embedded
from isogon.cli.evaluation_tables import evaluation as evaluation
from isogon.cli.export_tables import (
    exported as exported,
    verified as verified,
    weights as weights,
)
from isogon.cli.failures import failure as failure
from isogon.cli.inspection_tables import inspection as inspection
from isogon.cli.parity_table import parity as parity
from isogon.cli.published import published as published
from isogon.cli.quickstart_table import quickstart as quickstart
from isogon.cli.recipe import recipe as recipe, written_recipe as written_recipe
from isogon.cli.terminal import (
    as_json as as_json,
    load as load,
    loading as loading,
    needing as needing,
    note as note,
    progress as progress,
)

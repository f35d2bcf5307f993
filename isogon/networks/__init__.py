"""The networks in torch: distil trains them and export traces them. Serving needs none."""

from isogon.networks.architecture import (
    Architecture as Architecture,
    architecture_of as architecture_of,
)
from isogon.networks.backbone import (
    Backbone as Backbone,
    TimmModel as TimmModel,
    require_size as require_size,
    timm_model as timm_model,
)
from isogon.networks.features import (
    FeatureExtractor as FeatureExtractor,
    Features as Features,
)
from isogon.networks.imported import (
    ImportedNetwork as ImportedNetwork,
    code_of as code_of,
    error_line as error_line,
    module_from_path as module_from_path,
    module_of_path as module_of_path,
    source_of as source_of,
)
from isogon.networks.student import (
    WEIGHTS as WEIGHTS,
    Student as Student,
    own_network as own_network,
    preprocessing_of as preprocessing_of,
    student_from_bundle as student_from_bundle,
)

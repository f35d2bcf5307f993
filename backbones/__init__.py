"""The networks in torch: what distil trains and export traces. Serving never sees them."""

from backbones.backbone import (
    Backbone as Backbone,
    Features as Features,
    TimmModel as TimmModel,
    timm_model as timm_model,
)
from backbones.student import (
    WEIGHTS as WEIGHTS,
    Student as Student,
    preprocessing_of as preprocessing_of,
    student_from_bundle as student_from_bundle,
)

"""Out-of-distribution (OOD) detection: one file per detector, and calibration. No torch."""

from isogon.ood.calibration import (
    Calibration as Calibration,
    scores_needed as scores_needed,
)
from isogon.ood.detector import (
    Bank as Bank,
    Detector as Detector,
    DetectorSettings as DetectorSettings,
)
from isogon.ood.knn import (
    Knn as Knn,
)
from isogon.ood.logit import (
    GEN_CLASSES as GEN_CLASSES,
    GEN_GAMMA as GEN_GAMMA,
    Energy as Energy,
    Gen as Gen,
    LogitDetector as LogitDetector,
    MaxLogit as MaxLogit,
    Msp as Msp,
)
from isogon.ood.mahalanobis import (
    Gaussians as Gaussians,
    Mahalanobis as Mahalanobis,
    RelativeMahalanobis as RelativeMahalanobis,
)
from isogon.ood.nnguide import (
    NnGuide as NnGuide,
)
from isogon.ood.probe import (
    LinearProbe as LinearProbe,
)
from isogon.ood.she import (
    She as She,
)
from isogon.ood.spec import (
    DETECTORS as DETECTORS,
    DetectorSpec as DetectorSpec,
    applicable_detectors as applicable_detectors,
    detector_class as detector_class,
)
from isogon.ood.statistics import (
    StoredStatistics as StoredStatistics,
)
from isogon.ood.vim import (
    Residual as Residual,
    Vim as Vim,
)

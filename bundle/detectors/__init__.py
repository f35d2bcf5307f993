"""Out-of-distribution detectors on embeddings, in numpy. Larger = less familiar."""

from bundle.detectors.detector import Detector as Detector
from bundle.detectors.knn import Knn as Knn
from bundle.detectors.logit import (
    GEN_CLASSES as GEN_CLASSES,
    GEN_GAMMA as GEN_GAMMA,
    Energy as Energy,
    Gen as Gen,
    LogitDetector as LogitDetector,
    MaxLogit as MaxLogit,
    Msp as Msp,
)
from bundle.detectors.mahalanobis import (
    Gaussians as Gaussians,
    Mahalanobis as Mahalanobis,
    RelativeMahalanobis as RelativeMahalanobis,
)
from bundle.detectors.nnguide import NnGuide as NnGuide
from bundle.detectors.probe import LinearProbe as LinearProbe
from bundle.detectors.she import She as She
from bundle.detectors.spec import (
    DETECTORS as DETECTORS,
    DetectorName as DetectorName,
    DetectorSpec as DetectorSpec,
    applicable_detectors as applicable_detectors,
)
from bundle.detectors.stored import Stored as Stored
from bundle.detectors.vim import Residual as Residual, Vim as Vim

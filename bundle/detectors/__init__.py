"""Out-of-distribution detectors on embeddings, in numpy. Larger = less familiar."""

from bundle.detectors.detector import Detector as Detector
from bundle.detectors.knn import Knn as Knn
from bundle.detectors.mahalanobis import (
    Gaussians as Gaussians,
    Mahalanobis as Mahalanobis,
    RelativeMahalanobis as RelativeMahalanobis,
)
from bundle.detectors.spec import DetectorSpec as DetectorSpec

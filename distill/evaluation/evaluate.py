"""Evaluate: both models on the same images, side by side."""

import hashlib

from bundle import DetectorSpec
from distill.embedding import Embedded
from distill.evaluation.accuracy import knn_right, linear_right
from distill.evaluation.bootstrap import BOOTSTRAP, AurocBootstrap, accuracy_estimate
from distill.evaluation.fidelity import fidelity
from distill.evaluation.ood import ood_figures
from distill.evaluation.record import Evaluation, Quality, Training, UnfamiliarSet
from distill.preparation import Data

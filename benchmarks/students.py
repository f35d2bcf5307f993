"""Students to put through the exporter without a bundle, trained or with lively weights."""

from hashlib import sha256

import numpy as np
import torch
from lively import centred, lively
from photographs import Photographs

from distill.weights import pretrained
from export.deployed import Deployed
from export.graph import Graph
from isogon.networks import Student, preprocessing_of, timm_model
from isogon.ood import Knn

_SETTLED_ON = 48  # images of the bank: batch statistics, and the mean that is taken away
_NEIGHBOUR = 5  # the k of the knn detector


def deployed(
    name: str,
    size: int,
    checkpoint: str | None,
    photos: Photographs,
    *,
    width: int,
    bank: int | None = None,
) -> Deployed:
    """Return a student with a knn detector, as the exporter takes it.

    Args:
        name: of a timm model.
        size: pixels, height and width.
        checkpoint: of trained weights, as in a recipe; None for `lively` ones.
        photos: at that size.
        width: of the embedding.
        bank: vectors in the detector's bank; the embeddings are repeated or cut to so
            many. None for one of each photograph.
    """
    preprocessing, pixels = preprocessing_of(name, size, 1.0), photos.bank
    torch.manual_seed(0)
    if checkpoint is None:
        model = timm_model(name, size=(size, size))
        student = Student.new(model, preprocessing, width=width)
        lively(student, pixels[:_SETTLED_ON], 0)
    else:
        model = pretrained(name, checkpoint, size=(size, size)).model
        student = Student.new(model, preprocessing, width=width)
        centred(student, pixels[:_SETTLED_ON])
    with torch.inference_mode():
        familiar = student.embed(torch.from_numpy(pixels)).numpy()
    vectors = np.resize(familiar, (bank or len(familiar), width))
    return Deployed(
        graph=Graph(student, Knn.fit(vectors, k=_NEIGHBOUR)).eval(),
        function=sha256(f"{name} {size} {width} {checkpoint}".encode()).hexdigest(),
        preprocessing=preprocessing,
        images=photos.images,
        samples=lambda: pixels,
        reduction=None,
    )

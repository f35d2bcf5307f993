"""From an RGB image to the uint8 pixels that every runner takes: crop and resize.

Evaluation in training, parity, calibration and serving all call this. Normalisation
is not here: it is part of the exported graph.
"""

from typing import Annotated

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from isogon.images.sample_range import Range

Mean = Annotated[float, Field(ge=0)]
Std = Annotated[float, Field(gt=0)]


def _ascending(limits: Range) -> Range:
    if not limits[0] < limits[1]:
        raise ValueError("the first number, black, should be less than the second, white")
    return limits


# The range of deep grey samples, [black, white]; see `isogon/images/sample_range.py`.
SampleRange = Annotated[Range, AfterValidator(_ascending)]


class Preprocessing(BaseModel):
    """The centred box that is cut out of an image, and the size it is resized to.

    The box is the largest one with the target's aspect ratio, times `crop`; it is
    resampled in one step (bicubic, antialiased). Cutting before resizing gives the
    pixels of the usual resize-then-crop up to rounding, and bounds the work for
    images of any aspect ratio.

    `mean` and `std` are in units of [0, 1] and are applied inside the graph. `range` is
    [black, white] of images of more than 8 bits; None, which is not written, means
    the range that each file states.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    height: int = Field(ge=1)
    width: int = Field(ge=1)
    crop: float = Field(default=1.0, gt=0, le=1)
    mean: tuple[Mean, Mean, Mean]
    std: tuple[Std, Std, Std]
    range: SampleRange | None = Field(
        default=None, exclude_if=lambda limits: limits is None
    )

    def pixels(self, image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
        """Return the image's pixels at the model's size, RGB."""
        scale = self.crop * min(image.width / self.width, image.height / self.height)
        # By rounding, the product may exceed the image by an ulp, which Pillow refuses.
        box_width = min(self.width * scale, image.width)
        box_height = min(self.height * scale, image.height)
        left = (image.width - box_width) / 2
        top = (image.height - box_height) / 2
        resized = image.resize(
            (self.width, self.height),
            Image.Resampling.BICUBIC,
            box=(left, top, left + box_width, top + box_height),
        )
        return np.array(resized)

"""Where a recipe's images come from: `isogon.images`, and Hugging Face datasets."""

from distill.images.sources.opening import (
    open_images as open_images,
    require_there as require_there,
)

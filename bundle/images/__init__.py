"""From bytes to an RGB image: the one decoder, for training and for uploads."""

from bundle.images.decoding import ImageLimits as ImageLimits, decode as decode
from bundle.images.formats import (
    ACCEPTED as ACCEPTED,
    FORMATS as FORMATS,
    HEAD as HEAD,
    SUFFIXES as SUFFIXES,
    Format as Format,
    image_format as image_format,
)

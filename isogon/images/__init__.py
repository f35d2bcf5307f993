"""Images: from files, archives and tables to upright RGB pixels. No torch."""

from isogon.images.classes import (
    ClassChoice as ClassChoice,
)
from isogon.images.collection import (
    Images as Images,
)
from isogon.images.cost import (
    DecodingCost as DecodingCost,
)
from isogon.images.decoding import (
    ImageLimits as ImageLimits,
    decode as decode,
)
from isogon.images.folder import (
    ImageFolder as ImageFolder,
)
from isogon.images.formats import (
    ACCEPTED as ACCEPTED,
    FORMATS as FORMATS,
    HEAD as HEAD,
    SUFFIXES as SUFFIXES,
    Format as Format,
    image_format as image_format,
)
from isogon.images.opening import (
    FORMS as FORMS,
    open_images as open_images,
    require_there as require_there,
)
from isogon.images.preprocessing import (
    Preprocessing as Preprocessing,
    SampleRange as SampleRange,
)
from isogon.images.sample_range import (
    ASSUMED as ASSUMED,
    Range as Range,
)
from isogon.images.split import (
    Shares as Shares,
    Split as Split,
    split as split,
    split_apart as split_apart,
)

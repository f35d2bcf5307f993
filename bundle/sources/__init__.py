"""Where images come from: folders, tar archives, lists, Parquet.

Every source serves images by index, so that any part may be read, in any order. All
decode through `bundle.decode`, with its limits and its EXIF handling.
"""

from bundle.sources.opening import (
    FORMS as FORMS,
    open_images as open_images,
    require_there as require_there,
)

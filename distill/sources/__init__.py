"""Where images come from: folders, tar archives, lists, Parquet, Hugging Face datasets.

Every source serves images by index, since a view depends on seed, epoch and image
alone. All decode through `bundle.decode`, with its limits and its EXIF handling.
"""

from distill.sources.opening import open_images as open_images

"""What a store's features depend on. Any change of it makes another store."""

import importlib.metadata
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch

from distill.recipe import DataSection
from distill.targets.store import StoreParts
from isogon.images import Images, Preprocessing
from isogon.images.collection import Indices
from isogon.networks import FeatureExtractor

# The keys of [data] that the pixels of a view depend on; a test checks this with `Views`.
VIEW_SETTINGS = {
    *("size", "scale", "plain", "crop", "flip", "augment", "color_jitter"),
    *("color_jitter_share", "gray", "blur", "erase"),
}
# Another version of these may draw, resample or compute differently.
_LIBRARIES = ("pillow", "timm", "torch", "torchvision")
_SPREAD = 32  # images whose pixels are hashed where no files are known


def view_parts(
    images: Images,
    indices: Indices,
    data: DataSection,
    *,
    size: int,
    seed: int,
    views: int,
) -> StoreParts:
    """Return what the pixels of the views 0 to `views` - 1 depend on, in this size.

    They are the same for students of every size, unless views are blurred or erased in
    part: blur and erased rectangles are drawn at the student's size.
    """
    settings: StoreParts = data.model_dump(mode="json", include=VIEW_SETTINGS)
    settings["size"] = size
    settings["mirrored"] = "every second plain view"  # of earlier versions: at random
    if size != data.size and (data.blur or data.erase):
        settings["drawn_at"] = data.size
    return _image_parts(images, indices) | settings | {"seed": seed, "views": views}


def crop_parts(
    images: Images, indices: Indices, preprocessing: Preprocessing
) -> StoreParts:
    """Return what the pixels of the plain crops depend on; normalisation comes later."""
    geometry: StoreParts = preprocessing.model_dump(
        mode="json", include={"height", "width", "crop"}
    )
    return _image_parts(images, indices) | geometry


def network_parts(
    network: FeatureExtractor, name: str, source: Path | None, precision: str
) -> StoreParts:
    """Return what the features depend on besides the pixels.

    Args:
        network: all its parameters and buffers count, also the normalisation.
        name: of the network, as in the recipe.
        source: the file of the user's own network. Its code counts too; the code of
            modules that it imports does not.
        precision: as in `[train]`.
    """
    weights = sha256()
    state = [*network.named_parameters(), *network.named_buffers()]
    for key, value in sorted(state, key=lambda pair: pair[0]):
        array = value.detach().cpu().contiguous()
        weights.update(f"{key} {array.dtype} {list(array.shape)}\n".encode())
        weights.update(array.reshape(-1).view(torch.uint8).numpy().data)
    code = None if source is None else sha256(source.read_bytes()).hexdigest()
    return {
        "teacher": name,
        "weights": weights.hexdigest(),
        "code": code,
        "precision": precision,
        "libraries": {name: importlib.metadata.version(name) for name in _LIBRARIES},
    }


def _image_parts(images: Images, indices: Indices) -> StoreParts:
    names = sha256(np.ascontiguousarray(indices, dtype=np.int64).tobytes())
    for index in indices:
        names.update(f"{images.names[index]}\0".encode("utf-8", "surrogateescape"))
    return {"names": names.hexdigest(), "content": _content(images, indices)}


def _content(images: Images, indices: Indices) -> str:
    """Return a hash that changes when the images change, without reading all of them.

    It covers size and modification time of every file of the source. Where the files are
    not known, it covers the pixels of a few images.
    """
    content, known = sha256(), False
    for path in images.files():
        known = True
        content.update(_stamp(path))
    if not known:
        spread = np.linspace(0, len(indices) - 1, min(_SPREAD, len(indices))).astype(int)
        for index in indices[spread]:
            content.update(np.asarray(images.image(int(index))).tobytes())
    return content.hexdigest()


def _stamp(path: Path) -> bytes:
    try:
        status = path.stat()
    except OSError:
        return b"missing\n"
    return f"{status.st_size} {status.st_mtime_ns}\n".encode()

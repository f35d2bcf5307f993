"""From what a recipe writes to the images it means."""

from pathlib import Path

from isogon import images as sources
from isogon.errors import UsageError
from isogon.images import ClassChoice, Images

FORMS = f"{sources.FORMS}; or `hfds/NAME:SPLIT`"

# timm reads these in order only, while a view is asked for by its image.
_IN_ORDER_ONLY = {
    "hfids": "Write it as hfds/, which reads by index.",
    "tfds": "Write its images to a folder or to tar archives first.",
}


def open_images(source: str, choice: ClassChoice | None = None) -> Images:
    """Return the images that `source` names.

    Args:
        source: what `isogon.images.open_images` takes, or `hfds/NAME` or
            `hfds/NAME:SPLIT`, a Hugging Face dataset read by timm.
        choice: where the classes come from; without it that is found out.

    Raises:
        UsageError: there is no such source, or none of its images can be read.
    """
    reader, _, name = source.partition("/")
    if Path(source).expanduser().is_dir():
        return sources.open_images(source, choice=choice)
    if reader in _IN_ORDER_ONLY:
        raise UsageError(
            f"{source} is read in order only, but training reads images by index. "
            f"{_IN_ORDER_ONLY[reader]}"
        )
    if reader == "hfds":
        from distill.images.sources.hugging_face import hugging_face_images  # imports torch

        return hugging_face_images(name, choice or ClassChoice())
    return sources.open_images(source, forms=FORMS, choice=choice)


def require_there(source: str) -> None:
    """Refuse a source whose files are not there, without looking into any.

    Raises:
        UsageError: a path leads nowhere. Datasets of the hub are not asked for.
    """
    if source.partition("/")[0] not in {"hfds", *_IN_ORDER_ONLY}:
        sources.require_there(source, forms=FORMS)

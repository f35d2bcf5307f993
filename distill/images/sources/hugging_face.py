"""Hugging Face datasets, through timm's reader, which reads them by index."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from timm.data.readers import create_reader

from bundle import Images, UsageError
from bundle.collection import decoded, numbered
from bundle.sources.listed import complete_labels


@dataclass(frozen=True, kw_only=True, slots=True)
class HuggingFaceImages(Images):
    """The column `image` of a Hugging Face dataset; `label` is the class.

    The names are the rows' numbers. The dataset is memory-mapped, so that processes
    share it.
    """

    reader: Any  # timm's ReaderHfds, which exists only where `datasets` is installed

    def image(self, index: int) -> Image.Image:
        """Return the decoded image, RGB and upright.

        Raises:
            UsageError: it cannot be read; the message names dataset and row.
        """
        name = f"{self.where}: {self.names[index]}"
        try:
            file, _ = self.reader[index]
            with file:
                data = file.read()
        except (OSError, AssertionError, TypeError) as error:  # the last two: no image
            raise UsageError(f"{name} cannot be read: {error}.") from error
        return decoded(data, name, self.range)

    def files(self) -> Iterable[Path]:
        """Yield the dataset's files on this machine."""
        return (Path(file["filename"]) for file in self.reader.dataset.cache_files)


def hugging_face_images(dataset: str) -> HuggingFaceImages:
    """Return the images of `NAME` or `NAME:SPLIT`; without a split, `train`.

    Raises:
        UsageError: `datasets` is not installed, or the dataset is not to be had.
    """
    name, _, split = dataset.partition(":")
    where = f"hfds/{dataset}"
    try:
        reader = create_reader(f"hfds/{name}", split=split or "train")
    except ImportError as error:
        raise UsageError(
            f"{where} needs the package `datasets`, which is not installed. Run "
            f"`pip install datasets`."
        ) from error
    # The hub, the network, the disk and the dataset's own builder each raise their own.
    except Exception as error:
        raise UsageError(
            f"{where} cannot be opened: {str(error).rstrip('.')}. Check the name "
            f"and the split at https://huggingface.co/datasets/{name}."
        ) from error
    classes, numbers = numbered(complete_labels(_labels(reader), where))
    return HuggingFaceImages(
        where=where,
        names=tuple(map(str, range(len(reader)))),
        classes=classes,
        class_numbers=numbers,
        reader=reader,
    )


def _labels(reader: Any) -> list[str | None]:
    if "label" not in reader.dataset.column_names:
        return [None] * len(reader)
    names = {number: name for name, number in reader.class_to_idx.items()}
    return [
        None if label is None else str(names.get(label, label))
        for label in reader.iter_targets()
    ]

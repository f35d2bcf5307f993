"""Hugging Face datasets, read by index."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from isogon.errors import UsageError
from isogon.images import ClassChoice, Images
from isogon.images.classes import (
    classes_by_label,
    column_named,
    column_sentence,
    label_column,
    label_text,
)
from isogon.images.collection import decoded
from isogon.images.parquet import IMAGES


@dataclass(frozen=True, kw_only=True, slots=True)
class HuggingFaceImages(Images):
    """A column of images of a Hugging Face dataset.

    An image's name is the number of its row in the whole split, or `test/7` if there are
    several splits. So two slices of a split share names exactly if they share images. The
    dataset is memory-mapped, so that processes share it.
    """

    dataset: Any  # datasets.Dataset; `datasets` may not be installed
    column: str

    def image(self, index: int) -> Image.Image:
        """Return the decoded image, RGB and upright.

        Raises:
            UsageError: it cannot be read; the message names dataset and row.
        """
        name = f"{self.where}: {self.names[index]}"
        cell: dict[str, Any] = self.dataset[index][self.column] or {}
        if not cell.get("bytes") and not cell.get("path"):
            raise UsageError(f"{name} has neither bytes nor a path in `{self.column}`.")
        try:
            return decoded(
                cell.get("bytes") or Path(cell["path"]).read_bytes(), name, self.range
            )
        except OSError as error:
            raise UsageError(f"{name} cannot be read: {error}.") from error

    def files(self) -> Iterable[Path]:
        """Yield the dataset's files on this machine."""
        return (Path(file["filename"]) for file in self.dataset.cache_files)


def hugging_face_images(dataset: str, choice: ClassChoice) -> HuggingFaceImages:
    """Return the images of `NAME:SPLIT`, or of `NAME`, whose split is `train`.

    Raises:
        UsageError: `datasets` is not installed, the dataset cannot be loaded, or it does
            not have the columns that are asked for.
    """
    name, _, split = dataset.partition(":")
    where, split = f"hfds/{dataset}", split or "train"
    try:
        import datasets
    except ImportError as error:
        raise UsageError(
            f"{where} needs the package `datasets`, which is not installed. Run "
            f"`pip install datasets`."
        ) from error
    try:
        loaded = datasets.load_dataset(name, split=split)
    # Hub, network, disk and the dataset's builder raise errors of many types.
    except Exception as error:
        raise UsageError(
            f"{where} cannot be opened: {str(error).rstrip('.')}. Check the name "
            f"and the split at https://huggingface.co/datasets/{name}."
        ) from error
    encoded = datasets.Image(decode=False)
    columns = loaded.column_names
    held = [name for name, kind in loaded.features.items() if _is_image(kind)]
    column = column_named(held, IMAGES) or (held[0] if held else None)
    if column is None:
        raise UsageError(
            f"{where} has no column of images, only {', '.join(columns)}. Expected one of "
            f"the type `datasets.Image`."
        )
    label = _label_column(loaded, column, choice, where)
    classes = classes_by_label(
        None if label is None else _labels(loaded, label),
        len(loaded),
        column_sentence(label, columns, used=(column,)),
        where,
    )
    return HuggingFaceImages(
        where=where,
        names=tuple(_row_names(loaded, split)),
        classes=classes.names,
        class_numbers=classes.numbers,
        class_words=classes.sentence,
        dataset=loaded.cast_column(column, encoded),
        column=column,
    )


def _is_image(kind: Any) -> bool:
    """Return whether a column holds images, also bytes in Parquet without a type."""
    from datasets import Image as ImageFeature

    if isinstance(kind, dict):
        return "bytes" in kind
    return isinstance(kind, ImageFeature) or getattr(kind, "dtype", "") == "binary"


def _label_column(loaded: Any, image: str, choice: ClassChoice, where: str) -> str | None:
    """Return the column with a usual name for labels, or the only one of class type."""
    if choice.level:
        raise UsageError(
            f"{where} has columns and no folders, so `classes` in [data] cannot name a "
            f"level of them, got {choice.level}. Name a column with `label`."
        )
    others = [n for n in loaded.column_names if n != image]
    named = label_column(others, choice, where, lambda name: _labels(loaded, name))
    if named is not None or choice.level == 0:
        return named
    stated = [n for n, kind in loaded.features.items() if hasattr(kind, "int2str")]
    return stated[0] if len(stated) == 1 else None


def _labels(loaded: Any, column: str) -> list[str]:
    names = getattr(loaded.features[column], "names", [])
    return [
        names[value]
        if isinstance(value, int) and 0 <= value < len(names)
        else label_text(value, column)
        for value in loaded.select_columns(column)[:][column]
    ]


def _row_names(loaded: Any, split: str) -> Iterable[str]:
    """Yield each row's number in its whole split, with the split's name if several."""
    from datasets import ReadInstruction

    lengths = {
        name: known.num_examples for name, known in (loaded.info.splits or {}).items()
    }
    slices = ReadInstruction.from_spec(split).to_absolute(lengths)
    several = len({each.splitname for each in slices}) > 1
    for each in slices:
        rows = range(
            each.from_ or 0, lengths[each.splitname] if each.to is None else each.to
        )
        yield from (f"{each.splitname}/{row}" if several else str(row) for row in rows)

"""Open a source of images from the text that names it."""

import re
from pathlib import Path

from isogon.errors import UsageError
from isogon.images.archive import TarImages
from isogon.images.classes import ClassChoice
from isogon.images.collection import Images
from isogon.images.folder import ImageFolder
from isogon.images.listed import listed_images
from isogon.images.tables import LISTS

FORMS = (
    "a folder; a .tar, or shards such as `shard-{0000..0009}.tar`; a .csv, .tsv, .json, "
    ".jsonl, .txt or .parquet list"
)


def open_images(
    source: str, *, forms: str = FORMS, choice: ClassChoice | None = None
) -> Images:
    """Return the images that `source` names.

    Args:
        source: one of
            a folder, with or without class folders;
            `images.tar`, in which folders, or tars inside the tar, are classes;
            `shard-{0000..0009}.tar` or `shard-*.tar`, several tars; in WebDataset's,
            `.cls` files or labels in `.json` files are classes; the prefix `wds/` is
            ignored;
            `list.csv`, `list.tsv`, `list.json`, `list.parquet` with a column `path`
            and, if there are classes, `label`, or similar names; or Parquet with the
            encoded bytes in `image`;
            `list.txt`, a path on every line.
        forms: the accepted sources, for messages.
        choice: where the classes come from; None: detect it.

    Raises:
        UsageError: there is no such source, or it cannot be read.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return ImageFolder.list(folder, choice)
    files = require_there(source, forms=forms)
    return _from_files(files, source, forms, choice or ClassChoice())


def require_there(source: str, *, forms: str = FORMS) -> list[Path]:
    """Return the files that a source names, or the folder, without reading them.

    Raises:
        UsageError: one of them does not exist.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return [folder]
    files = _expanded(source.removeprefix("wds/"))
    missing = [str(file) for file in files if not file.is_file()]
    if missing or not files:
        raise UsageError(
            f"Expected images at {', '.join(missing[:10]) or source}, found nothing. "
            f"Write {forms}."
        )
    return files


def _from_files(files: list[Path], source: str, forms: str, choice: ClassChoice) -> Images:
    kinds = {file.suffix.lower() for file in files}
    if kinds == {".tar"}:
        return TarImages.index(files, where=source, choice=choice)
    if kinds <= LISTS:
        return listed_images(files, where=source, choice=choice)
    if kinds == {".parquet"}:
        from isogon.images.parquet import parquet_images  # imports pyarrow

        return parquet_images(files, where=source, choice=choice)
    if kinds & {".gz", ".tgz", ".bz2", ".xz", ".zst", ".zip"}:
        raise UsageError(
            f"{source} is compressed, so its images cannot be read one by one. Unpack it "
            f"to a folder, or to an uncompressed .tar."
        )
    raise UsageError(f"{source} is not a source of images. Write {forms}.")


def _expanded(pattern: str) -> list[Path]:
    """Return the files of a pattern with braces and stars, in order."""
    path = Path(pattern).expanduser()
    if path.exists():
        return [path]
    found: list[Path] = []
    for each in map(Path, _without_braces(str(path))):
        starred = "*" in each.name
        found += sorted(each.parent.glob(each.name)) if starred else [each]
    return found


def _without_braces(pattern: str) -> list[str]:
    """Expand `{0000..0009}`, which keeps leading zeros, and `{train,val}`."""
    braces = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern)
    if braces is None:
        return [pattern]
    first, last, choices = braces.groups()
    parts = (
        choices.split(",")
        if choices is not None
        else [f"{n:0{len(first)}}" for n in range(int(first), int(last) + 1)]
    )
    before, after = pattern[: braces.start()], pattern[braces.end() :]
    return [full for part in parts for full in _without_braces(before + part + after)]

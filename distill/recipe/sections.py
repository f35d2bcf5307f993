"""What the tables of a recipe have in common: earlier names of keys, and `[[objective]]`.

The other keys of a table are in the objective's own file, `distill/objectives/NAME.py`.
"""

from typing import Annotated, Any

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
)


def formerly(name: str, *before: str) -> AliasChoices:
    """Return the names under which a key is read, today's first."""
    return AliasChoices(name, *before)


def renamed_keys(model: type[BaseModel], table: Any) -> dict[str, str]:
    """Return the keys of a table that are an earlier name, each with today's."""
    if not isinstance(table, dict):
        return {}
    return {
        str(before): str(field.validation_alias.choices[0])
        for field in model.model_fields.values()
        if isinstance(field.validation_alias, AliasChoices)
        for before in field.validation_alias.choices[1:]
        if before in table
    }


class ObjectiveSection(BaseModel):
    """The keys of every objective. An objective with more keys makes a subclass."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weight: float = Field(default=1.0, gt=0, description="factor on all its terms")
    name: str = Field(description="a known objective, or `package.module:Class`")

    @property
    def label(self) -> str:
        """What its terms and weights are called: its name, or that of its class."""
        return self.name.rpartition(":")[2]

    @property
    def of_neighbours(self) -> bool:
        """Whether it learns from batches of `distill.images.neighbours`."""
        return False

    def require_batch(self, batch_size: int, parts: int) -> None:
        """Raise `ValueError` if the objective cannot learn from such batches.

        Args:
            batch_size: images per step, over all processes.
            parts: into how many micro-batches a step is cut.
        """


def _section(table: Any) -> ObjectiveSection:
    from distill.objectives.registry import section_from_table  # loads torch

    return section_from_table(table)


# One [[objective]], checked by the class that its `name` says.
AnyObjectiveSection = Annotated[SerializeAsAny[ObjectiveSection], BeforeValidator(_section)]

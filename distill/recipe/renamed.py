"""Keys of a recipe that had another name in earlier versions; both are read."""

from typing import Any

from pydantic import AliasChoices, BaseModel


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

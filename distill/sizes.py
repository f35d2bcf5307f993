"""Whether the recipe's models take the sizes of their images, asked before any work."""

from distill.recipe import Recipe
from isogon.networks import require_size


def require_sizes(recipe: Recipe) -> None:
    """Refuse sizes that a timm model cannot take, or would cut, before an image is read.

    A user's own network is tried when it is made, before any feature is computed.

    Raises:
        UsageError: it names the nearest sizes that work.
    """
    size = recipe.data.size
    if not recipe.student.imported:
        require_size(recipe.student.name, size, where="`size` in [data]")
    for section in recipe.teachers:
        if section.name is None or section.path is not None or section.imported:
            continue
        require_size(section.name, section.size or size, where="`size` in [teacher]")

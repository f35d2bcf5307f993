"""Whether the recipe's models take the sizes of their images, asked before any work."""

from backbones import require_size
from distill.recipe import Recipe


def require_sizes(recipe: Recipe) -> None:
    """Refuse sizes that a timm model cannot take, or would cut, before an image is read.

    A user's own network is tried when it is made, before any feature is computed.

    Raises:
        UsageError: it names the nearest sizes that work.
    """
    student, size = recipe.student.name, recipe.data.size
    if ":" not in student:
        require_size(student, size, where="`size` in [data]")
    for section in recipe.teachers:
        if section.name is None or section.path is not None or section.imported:
            continue
        require_size(section.name, section.size or size, where="`size` in [teacher]")

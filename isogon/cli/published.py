"""Where a published bundle is, and what to do with it."""

from typing import TYPE_CHECKING

from isogon.cli.terminal import out

if TYPE_CHECKING:
    from serving.publishing import Published


def published(found: "Published", *, bento: str | None) -> None:
    """Print the tags and the commands that take them."""
    verb = "is already" if found.already else "is now"
    lines = [
        f"{found.tag} {verb} in BentoML's model store: {found.path}, "
        f"{found.bytes / 1e6:,.1f} MB",
        f"  isogon serve bentoml:{found.tag}",
    ]
    if bento is not None:
        lines += [
            f"{bento} is a Bento that holds it",
            f"  bentoml containerize {bento}",
        ]
    out.print("\n".join(lines), markup=False, soft_wrap=True)

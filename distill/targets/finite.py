"""Features that are not finite: an error of the teacher, reported with the image."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from isogon.errors import UsageError


def require_finite_features(
    tokens: Float[Tensor, "b n d"], teacher: str, images: Sequence[str]
) -> None:
    """Refuse NaN and infinity, from which nothing can be learnt.

    Args:
        tokens: the teacher's, of a batch.
        teacher: its name.
        images: the names of the batch's images.

    Raises:
        UsageError: names the teacher and the first such image.
    """
    finite = tokens.isfinite().flatten(1).all(dim=1)
    if finite.all():
        return
    place = int((~finite).nonzero()[0, 0])
    what = "NaN" if tokens[place].isnan().any() else "infinite values"
    raise not_finite(teacher, images[place], what)


def not_finite(teacher: str, image: str, what: str, *, images: int = 1) -> UsageError:
    """Return the error for images of which a teacher gives no finite features.

    Args:
        teacher: its name.
        image: the first of them.
        what: it gives instead.
        images: how many they are.
    """
    more = f" and {images - 1:,} more" if images > 1 else ""
    them = "these images" if images > 1 else "this image"
    return UsageError(
        f"The teacher {teacher} gives {what} for the image {image}{more}, and nothing can "
        f"be learnt from that, nor compared with it. Leave {them} out (a network that "
        f"divides by what an image varies fails on blank ones), or take another teacher; "
        f'one in half precision may want float32, and [train] `precision = "32-true"`.'
    )

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


def not_finite(teacher: str, image: str, what: str) -> UsageError:
    """Return the error for an image of which a teacher gives no finite features."""
    return UsageError(
        f"The teacher {teacher} gives {what} for the image {image}, and nothing can be "
        f"learnt from that. Leave this image out, or take another teacher; one in half "
        f'precision may want float32, and [train] `precision = "32-true"`.'
    )

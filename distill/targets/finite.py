"""Features that are not finite: an error that names the teacher and the image."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from isogon.errors import UsageError


def require_finite_features(
    tokens: Float[Tensor, "b n d"], teacher: str, images: Sequence[str]
) -> None:
    """Refuse NaN and infinity: no student can learn from them.

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
    """Return the error for images whose teacher features are not finite.

    Args:
        teacher: its name.
        image: the name of the first such image.
        what: the teacher gives for it.
        images: how many such images there are.
    """
    more = f" and {images - 1:,} more" if images > 1 else ""
    them = "these images" if images > 1 else "this image"
    return UsageError(
        f"The teacher {teacher} gives {what} for the image {image}{more}. A student cannot "
        f"learn from that or be compared with it. Leave {them} out (a network that divides "
        f"by an image's variance fails on blank images), or take another teacher. In half "
        f'precision a teacher may need float32: [train] `precision = "32-true"`.'
    )

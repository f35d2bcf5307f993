"""How many out-of-distribution images a model flags, in one sentence."""

from isogon.bundle.evaluation import Evaluation


def detection_sentence(found: Evaluation) -> str | None:
    """Return how many of its unfamiliar images the student's detector flags.

    Near and far sets are counted apart: one is much harder than the other. None where
    it was not counted.
    """
    counted: dict[str, tuple[int, int]] = {}
    for one in found.unfamiliar.values():
        if one.flagged is not None:
            flagged, images = counted.get(one.kind, (0, 0))
            counted[one.kind] = flagged + one.flagged, images + one.images
    if not counted:
        return None
    if len(counted) == 1:
        ((flagged, images),) = counted.values()
        return f"Flags {_share(flagged, images)} of {images:,} unfamiliar images."
    (far, of_far), (near, of_near) = counted["far"], counted["near"]
    return (
        f"Flags {_share(far, of_far)} of {of_far:,} far and {_share(near, of_near)} of "
        f"{of_near:,} near unfamiliar images."
    )


def _share(flagged: int, images: int) -> str:
    """Return whole percents: 100 % is all of them, and 0 % is none."""
    percents = round(100 * flagged / images)
    if percents == 0 and flagged:
        return "less than 1 %"
    if percents == 100 and flagged < images:
        return "more than 99 %"
    return f"{percents} %"

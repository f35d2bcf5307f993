"""Where a bundle is: a directory, or a model of BentoML's store."""

from pathlib import Path

from bundle import UsageError

STORED = "bentoml:"


def bundle_path(location: str | Path) -> Path:
    """Return the directory of a bundle.

    Args:
        location: a path; or `bentoml:NAME[:VERSION]`, a model of BentoML's store or of
            the Bento that is being served, without a version the latest.

    Raises:
        UsageError: the store has no such model.
    """
    tag = str(location).removeprefix(STORED)
    if tag == str(location):
        return Path(location)
    import bentoml
    from bentoml.exceptions import BentoMLException

    try:
        return Path(bentoml.models.get(tag).path)
    except (BentoMLException, ValueError) as error:  # ValueError: it is no tag at all
        raise UsageError(
            f"{location} names no model of BentoML's store: {error}. "
            f"`bentoml models list` shows them, `isogon publish BUNDLE` adds one; or set "
            f"ISOGON_BUNDLE to a bundle's directory."
        ) from error

"""Names of networks: timm's own, or the import path of a user's."""

# Where timm finds a model beside its own list: `hf-hub:org/name`, `local-dir:/path`.
_TIMM_SOURCES = ("hf-hub", "hf_hub", "local-dir")


def has_timm_source(name: str) -> bool:
    """Whether timm finds this model on a hub or in a folder."""
    source, colon, _ = name.partition(":")
    return bool(colon) and source.lower() in _TIMM_SOURCES


def is_import_path(name: str) -> bool:
    """Whether this is `package.module:factory`, a network of the user's own."""
    return ":" in name and not has_timm_source(name)

"""A timm model's description, from its name, before the model is built."""

import difflib
from dataclasses import dataclass
from typing import Any

import timm
from timm.models import _hub

from isogon.bundle import has_timm_source
from isogon.errors import UsageError

# Arguments that Isogon sets itself.
_OURS = {"num_classes", "img_size", "pretrained", "features_only", "in_chans"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """A timm model: its plain name, and the configuration from its source."""

    name: str  # as in timm's own list, with or without tag
    source: dict[str, Any] | None  # a pretrained config of a hub or folder
    arguments: dict[str, Any]  # of timm's model, from that config

    @property
    def config(self) -> Any:
        """The pretrained config; None if there is none."""
        if self.source is not None:
            return timm.models.PretrainedCfg(**self.source)
        return timm.models.get_pretrained_cfg(self.name)

    def sizing(self, size: tuple[int, int]) -> dict[str, tuple[int, int]]:
        """Return timm's argument for images of this size, if the model needs it."""
        config = self.config
        return {"img_size": size} if config and config.fixed_input_size else {}


def architecture_of(name: str) -> Architecture:
    """Return the description of a timm model; a hub's config is downloaded.

    Raises:
        UsageError: timm has no such model or tag, or its source cannot be reached.
    """
    if has_timm_source(name):
        return _from_source(name)
    if not timm.is_model(name):
        raise UsageError(
            f"timm {timm.__version__} has no model named {name!r}. "
            f"Similar: {_similar(name) or 'none'}. `timm.list_models()` lists all."
            + (f" A model of the hub is `hf-hub:{name}`." if "/" in name else "")
        )
    try:
        timm.models.get_pretrained_cfg(name)
    except RuntimeError as error:
        plain, _, tag = name.partition(".")
        tags = ", ".join(sorted(filter(None, timm.models.get_arch_pretrained_cfgs(plain))))
        raise UsageError(
            f"timm {timm.__version__} has no weights {tag!r} of {plain}. It has: "
            f"{tags or 'none with a name'}."
        ) from error
    return Architecture(name=name, source=None, arguments={})


def _from_source(name: str) -> Architecture:
    source, _, where = name.partition(":")
    local = source.lower() == "local-dir"
    load = _hub.load_model_config_from_path if local else _hub.load_model_config_from_hf
    try:
        config, plain, arguments = load(where)
        timm.models.PretrainedCfg(**config)
    except (
        Exception
    ) as error:  # the hub client, its transport and timm have errors of their own
        expected = "a folder with config.json" if local else "a model of the hub"
        raise UsageError(
            f"Expected {expected} for {name}, got {type(error).__name__}: "
            f"{str(error).partition(chr(10))[0]} Give a timm name with a local file of "
            f"weights as `checkpoint` instead."
        ) from error
    if not timm.is_model(plain):
        raise UsageError(
            f"The config.json of {name} names the architecture {plain!r}, which timm "
            f"{timm.__version__} does not have. Similar: {_similar(plain) or 'none'}."
        )
    channels = (arguments or {}).get("in_chans", 3)
    if channels != 3:
        raise UsageError(
            f"{name} takes images of {channels} channels; Isogon's have 3, RGB."
        )
    kept = {key: value for key, value in (arguments or {}).items() if key not in _OURS}
    return Architecture(name=plain, source=config, arguments=kept)


def _similar(name: str) -> str:
    near = difflib.get_close_matches(name, timm.list_models(), n=4, cutoff=0.5)
    return ", ".join(near)

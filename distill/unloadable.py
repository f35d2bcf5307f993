"""Why a file of weights could not be loaded, in a sentence and not in Python's words."""

import errno
import re
from pickle import UnpicklingError
from zipfile import BadZipFile

from safetensors import SafetensorError

# What damaged bytes lead the parsers into.
_OF_PARSERS = (AttributeError, BadZipFile, EOFError, IndexError, SafetensorError, TypeError)
_NAMED = 3  # weights that a sentence names
_LISTS = {
    "Missing key(s) in state_dict:": "it lacks",
    "Unexpected key(s) in state_dict:": "it has, beyond the model,",
}
_SHAPES = re.compile(
    r"size mismatch for (\S+): .*?torch\.Size\((\[.*?\])\).*?torch\.Size\((\[.*?\])\)"
)
_BEGINNING = re.compile(r"^(\w+\.)*\w*(Error|Exception): ")


def why_unloadable(error: Exception) -> str:
    """Return what is wrong with the file, as a clause without an end mark.

    Args:
        error: of torch, of safetensors, or of timm's own renaming.
    """
    text = str(error)
    if isinstance(error, KeyError):
        return f"it has no entry {error.args[0] if error.args else ''}".rstrip()
    if isinstance(error, UnpicklingError):
        return "it is no file of tensors alone"
    if isinstance(error, _OF_PARSERS) or "zip archive" in text or _is_cut_off(error):
        return "it breaks off, or is no file of weights"
    if "state_dict" in text:
        return _misfit(text)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    first = _BEGINNING.sub("", text.strip().partition("\n")[0])
    return first.rstrip(".")[:300] or "it is not what was expected"


def _is_cut_off(error: Exception) -> bool:
    """Whether torch looked for the end of an archive before its beginning."""
    return isinstance(error, OSError) and error.errno == errno.EINVAL


def _misfit(text: str) -> str:
    """Return the names and shapes that differ, out of what torch says of them."""
    found = []
    for line in map(str.strip, text.splitlines()):
        for begin, words in _LISTS.items():
            if line.startswith(begin):
                names = re.findall(r'"([^"]+)"', line)
                found.append(f"{words} {_some(names)}")
    shapes = [
        f"{name} is {theirs} and should be {ours}"
        for name, theirs, ours in _SHAPES.findall(text)
    ]
    if shapes:
        found.append(_some(shapes))
    return "; ".join(found) or "its names or shapes are others"


def _some(words: list[str]) -> str:
    return ", ".join(words[:_NAMED]) + (", …" if len(words) > _NAMED else "")

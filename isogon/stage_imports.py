"""Import the stages: `distill`, `export` and `serving` mean Isogon's own packages.

They are installed beside `isogon`, under names that a user's folders may have too. After
`import isogon`, these names mean Isogon's packages, whatever the current folder contains.
`load_stage` imports one when it is needed, and says which extra is missing.
"""

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

from isogon.errors import UsageError
from isogon.progress import Progress

STAGES = ("distill", "export", "serving")
OWN = ("isogon", *STAGES)
_ROOT = Path(__file__).resolve().parents[1]


class _StageFinder(MetaPathFinder):
    """Finds the stages beside `isogon`, before any folder of `sys.path`."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of Isogon's stage of this name; None for any other module."""
        init = _ROOT / name / "__init__.py"
        if name not in STAGES or not init.is_file():
            return None
        other = namesake(name, sys.path)
        # A folder without code is no conflict, nor a file of Isogon's own checkout.
        if other is not None and other.is_file() and not other.is_relative_to(_ROOT):
            # The place in the warning is the user's own file.
            warnings.warn_explicit(
                f"`import {name}` means Isogon's own stage, not {other}. Rename yours if "
                f"you import it beside Isogon.",
                UserWarning,
                str(other),
                lineno=1,
            )
        return spec_from_file_location(
            name, init, submodule_search_locations=[str(init.parent)]
        )


def install() -> None:
    """Make the names of the stages mean Isogon's packages from now on."""
    if not any(isinstance(found, _StageFinder) for found in sys.meta_path):
        place = next(
            (i for i, found in enumerate(sys.meta_path) if found is PathFinder),
            len(sys.meta_path),
        )
        sys.meta_path.insert(place, _StageFinder())


def namesake(name: str, folders: Sequence[str]) -> Path | None:
    """Return a module or folder of this name in `folders`, or None.

    An empty string is the current folder, as in `sys.path`. Copies of Isogon are ignored.
    """
    others = [
        folder for folder in folders if not Path(folder, "isogon/__init__.py").is_file()
    ]
    found = PathFinder.find_spec(name, others)
    if found is None:
        return None
    if found.origin is not None:
        return Path(found.origin)
    return Path(next(iter(found.submodule_search_locations or [name])))


def require_own(name: str) -> None:
    """Raise `UsageError` if another module of a stage's name is imported already."""
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    if module is None or (file and Path(file).resolve().is_relative_to(_ROOT / name)):
        return
    raise UsageError(
        f"Isogon's stage `{name}` cannot be loaded: {file or 'another module'} was "
        f"imported under this name before. Rename that, or import isogon first."
    )


def load_stage(module: str, *, extra: str, progress: Progress | None = None) -> None:
    """Import a stage's module before its names are taken from it.

    Args:
        module: such as "export.artifacts".
        extra: the extra that installs what it needs.
        progress: shows that torch is being loaded, which takes seconds.

    Raises:
        UsageError: another module has the stage's name, or a package is not installed.
    """
    require_own(module.partition(".")[0])
    task = progress and progress.add_task("Loading PyTorch", total=None)
    with needing(extra):
        import_module(module)
    if progress:
        progress.remove_task(task)


@contextmanager
def needing(extra: str) -> Iterator[None]:
    """Turn a missing package into an error that names the extra to install.

    Raises:
        UsageError: a package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise UsageError(
            f"This needs the package {package!r}, which is not installed. Install the "
            f"extra `{extra}`: `pip install '.[{extra}]'` in the folder of Isogon's source."
        ) from error

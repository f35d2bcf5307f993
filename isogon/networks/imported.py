"""A user's own network: imported by its path, its outputs and its source checked."""

import importlib
import importlib.util
import math
import sys
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from isogon.errors import UsageError
from isogon.images import Preprocessing
from isogon.networks.features import FeatureExtractor, Features
from isogon.stage_imports import OWN, namesake

NetworkRole = Literal["teacher", "student", "objective"]
_EXPECTED = (
    "Expected float images [b, 3, h, w] in, and out either embeddings [b, d] or tokens "
    "[b, n, d], class token first."
)


class ImportedNetwork(FeatureExtractor):
    """Any `nn.Module` from normalised float images [b, 3, h, w] to features.

    It returns embeddings [b, d], or tokens [b, n, d]: the class token, then the patch
    tokens of a grid, row by row. The grid is the module's attribute `grid` (rows, columns),
    by default the square of n - 1 cells.
    """

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        """Wrap `network` and run it on a black image and noise, in evaluation mode.

        It gets images in the dtype of its weights and may return any float dtype, which is
        converted to float32.

        Raises:
            UsageError: it fails on the images, or returns another shape.
        """
        super().__init__(preprocessing)
        self.network = network.eval()
        tried = self._tried((preprocessing.height, preprocessing.width))
        self.width: int = tried.tokens.shape[2]
        self.grid = tried.grid
        self._one_sided = bool((tried.pooled >= 0).all())

    def forward(self, pixels: UInt8[Tensor, "b h w 3"]) -> Features:
        """Return the network's tokens of uint8 RGB pixels."""
        output = self.network(self.normalised(pixels).to(self._dtype))
        if not isinstance(output, Tensor):
            raise self._wrong(f"a {type(output).__name__}")
        if output.ndim not in (2, 3) or output.shape[0] != pixels.shape[0]:
            raise self._wrong(f"{list(output.shape)} for {len(pixels)} images")
        if not output.is_floating_point():
            raise self._wrong(f"values of {output.dtype}")
        if output.dtype != torch.float32:
            output = output.float()
        if output.ndim == 2:
            return Features(tokens=output[:, None], grid=(0, 0))
        return Features(tokens=output, grid=self._grid(output))

    @property
    def plain(self) -> nn.Module:
        """The network without normalisation."""
        return self.network

    @property
    def one_sided(self) -> bool:
        """Whether no value of its embeddings was negative in the first run."""
        return self._one_sided

    def _tried(self, size: tuple[int, int]) -> Features:
        """Return the features of two images; find the dtype in which it takes them."""
        noise = torch.Generator().manual_seed(0)
        pixels = torch.zeros(2, *size, 3, dtype=torch.uint8)
        pixels[1].random_(0, 256, generator=noise)
        failures: list[Exception] = []
        for dtype in _dtypes(self.network):
            self._dtype = dtype
            try:
                with torch.no_grad():
                    tried: Features = self(pixels)
            except UsageError:
                raise
            except Exception as error:  # any error of the user's code
                failures.append(error)
            else:
                return tried
        raise UsageError(
            f"{type(self.network).__name__} failed on two images of {size[0]} x {size[1]} "
            f"pixels: {error_line(failures[0])}. {_EXPECTED}"
        ) from failures[0]

    def _grid(self, tokens: Float[Tensor, "b n d"]) -> tuple[int, int]:
        cells = tokens.shape[1] - 1
        side = math.isqrt(max(cells, 0))
        rows, columns = getattr(self.network, "grid", (side, side))
        if cells < 0 or rows * columns != cells:
            raise self._wrong(
                f"{list(tokens.shape)}, whose {cells} cells do not fill a grid of "
                f"{rows} x {columns} (give the module an attribute `grid`)"
            )
        return int(rows), int(columns)

    def _wrong(self, found: str) -> UsageError:
        return UsageError(f"{type(self.network).__name__} gave {found}. {_EXPECTED}")


def module_from_path(
    name: str, role: NetworkRole = "teacher"
) -> tuple[nn.Module, Path | None]:
    """Return the network from `package.module:factory`, and its source file.

    The factory is called without arguments.

    Raises:
        UsageError: there is no such module or factory, or it returns something else.
    """
    module_name, _, attribute = name.partition(":")
    module = module_of_path(name, role)
    where = f"{module_name} ({module.__file__})"
    factory = getattr(module, attribute, None)
    if not callable(factory):
        found = "nothing of this name" if factory is None else f"a {type(factory).__name__}"
        raise UsageError(f"Expected a function {attribute!r} in {where}, found {found}.")
    try:
        network = factory()
    except Exception as error:  # of the user's own code
        raise UsageError(f"{name}() failed: {error_line(error)}.") from error
    if not isinstance(network, nn.Module):
        raise UsageError(
            f"Expected {name}() to return a torch.nn.Module, got a "
            f"{type(network).__name__}."
        )
    return network, _source(module)


def source_of(name: str, role: NetworkRole = "teacher") -> Path | None:
    """Return the source file of the module in `package.module:factory`.

    Raises:
        UsageError: there is no such module, or it cannot be imported.
    """
    return _source(module_of_path(name, role))


def module_of_path(name: str, role: NetworkRole) -> ModuleType:
    """Import and return the module of `package.module:attribute`.

    The current folder is searched last.

    Raises:
        UsageError: there is no such module, or it cannot be imported.
    """
    module_name = name.partition(":")[0]
    _look_here()
    _require_unambiguous(module_name, name, role)
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and f"{module_name}.".startswith(f"{error.name}."):
            raise _missing(error.name, name, role) from error
        raise UsageError(
            f"Importing {module_name} failed: {error}. Install what it needs."
        ) from error
    except (TypeError, ValueError) as error:  # relative or empty names
        raise UsageError(
            f"{name!r} is not an import path: {error}. {_advice(role)}"
        ) from error
    except Exception as error:  # of the user's own code
        raise UsageError(f"Importing {module_name} failed: {error_line(error)}.") from error


def code_of(name: str, network: nn.Module) -> dict[str, str]:
    """Return the SHA-256 (hex) of a network's source, by module.

    It covers the module of the import path, and the modules of the network's layers in the
    same package or folder; not their other imports.
    """
    module_name = name.partition(":")[0]
    main = _source(sys.modules[module_name])
    package = module_name.partition(".")[0]
    names = {module_name, *(type(layer).__module__ for layer in network.modules())}
    code = {}
    for module in sorted(names):
        file = _source(sys.modules.get(module))
        if file is None or main is None or not file.is_file():
            continue
        if module.partition(".")[0] == package or file.parent == main.parent:
            code[module] = sha256(file.read_bytes()).hexdigest()
    return code


def require_code(name: str, found: dict[str, str], expected: dict[str, str]) -> None:
    """Raise `UsageError` if the source of a student's network has changed."""
    changed = sorted(
        module
        for module in found.keys() | expected.keys()
        if found.get(module) != expected.get(module)
    )
    if changed:
        raise UsageError(
            f"The student is {name}, and its code has changed since it was trained: "
            f"{', '.join(changed)}. Restore the source (its SHA-256 is in manifest.json, "
            f"at student.code), or distil again. Exported artifacts can be served without "
            f"it."
        )


def require_code_of_path(name: str, code: dict[str, str]) -> None:
    """Raise if the module of an import path has changed, before it is imported.

    Args:
        name: `package.module:factory`.
        code: the result of `code_of` when the student was made.

    Raises:
        UsageError: there is no such module, or its source has changed.
    """
    module_name = name.partition(":")[0]
    _look_here()
    try:
        spec = importlib.util.find_spec(module_name)
    except Exception:  # an error in a parent package
        spec = None
    # The file of a module that is loaded already may have been removed.
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise UsageError(
            f"The student is {name}, a user's own network, and its module {module_name!r} "
            f"is not found here. Run this in the folder that contains it, add that to "
            f"PYTHONPATH, or install it. Exported artifacts can be served without it."
        )
    if module_name in code:
        found = sha256(Path(spec.origin).read_bytes()).hexdigest()
        require_code(name, {module_name: found}, {module_name: code[module_name]})


def error_line(error: Exception) -> str:
    """Return an error of the user's code in one line, shortened."""
    return f"{type(error).__name__}: {' '.join(str(error)[:400].split())}"


def _dtypes(network: nn.Module) -> list[torch.dtype]:
    """Return the dtypes of a network's weights in order, then float32."""
    found = [weight.dtype for weight in network.parameters() if weight.is_floating_point()]
    return list(dict.fromkeys([*found, torch.float32]))


def _source(module: ModuleType | None) -> Path | None:
    file = getattr(module, "__file__", None)
    return None if file is None else Path(file)


def _look_here() -> None:
    here = str(Path.cwd())
    if here not in sys.path:  # a console script's path has its own folder instead
        sys.path.append(here)
    importlib.invalidate_caches()


def _require_unambiguous(module_name: str, name: str, role: NetworkRole) -> None:
    """Refuse a user's module in a package with the name of one of Isogon's."""
    package = module_name.partition(".")[0]
    other = namesake(package, sys.path) if package in OWN else None
    if other is not None:
        raise UsageError(
            f"The {role} {name} is in a package with the name of one of Isogon's own, "
            f"`{package}`, so {other} is not found. Rename your package, and change `name`."
        )


def _missing(module: str, name: str, role: NetworkRole) -> UsageError:
    return UsageError(
        f"There is no module {module!r} for the {role} {name}. {_advice(role)}"
    )


def _advice(role: NetworkRole) -> str:
    place, what = f"[{role}]", "factory"
    if role == "objective":
        place, what = "[[objective]]", "Class"
    return (
        f"Write `name` in {place} as `package.module:{what}`; modules in the current "
        f"folder, on PYTHONPATH and installed ones are found."
    )

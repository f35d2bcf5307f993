"""The student's weights as a plain state dict, for timm, torch and further training."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from isogon.bundle import HELD_OUT, Bundle, StudentCard
from isogon.errors import CheckFailedError, UsageError
from isogon.networks import Student, module_from_path, student_from_bundle, timm_model

State = dict[str, Tensor]
# How to get the embedding's input from the plain network: as source and as a function.
Way = tuple[str, Callable[[Any, Tensor], Tensor]]

_SUFFIXES = (".safetensors", ".pth", ".pt")
_IMAGES = 8  # to check the files on
_TOLERANCE = 1e-5  # of unit-norm coordinates; only the order of sums may differ

_TIMM_WAYS: tuple[Way, ...] = (
    ("model(images)", lambda model, images: model(images)),
    (
        "model.forward_features(images)[:, 0]",
        lambda model, images: model.forward_features(images)[:, 0],
    ),
    (
        "model.forward_features(images).mean((2, 3))",
        lambda model, images: model.forward_features(images).mean((2, 3)),
    ),
    (
        "model.forward_features(images).mean((1, 2))",
        lambda model, images: model.forward_features(images).mean((1, 2)),
    ),
)
_OWN_WAYS: tuple[Way, ...] = (
    ("model(images)", lambda model, images: model(images)),
    ("model(images)[:, 0]", lambda model, images: model(images)[:, 0]),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PlainWeights:
    """The files that were written, and Python code that uses them."""

    backbone: Path
    embedding: Path | None  # its embedding layer, `weight` and `bias`; None: it has none
    zeros: tuple[str, ...]  # entries of layers that the student does not have
    snippet: str


def export_weights(bundle: Bundle, file: Path) -> PlainWeights:
    """Write the student's backbone as the state dict of its plain network.

    `timm.create_model(name, num_classes=0)`, or the user's own factory, loads it with
    `strict=True`. An embedding layer goes into a second file. Both are read back into a
    new network, which must give the student's embeddings of held-out images.

    Args:
        bundle: a distilled bundle; it is not changed.
        file: .safetensors, .pth or .pt; an existing file is not overwritten.

    Raises:
        UsageError: another kind of file, or the file exists.
        CheckFailedError: the written weights do not give the student's embeddings.
    """
    layer_file = file.with_name(f"{file.stem}.embedding{file.suffix}")
    _require_new(file, layer_file)
    student = student_from_bundle(bundle)
    card, preprocessing = bundle.manifest.student, bundle.manifest.preprocessing
    model, making = _new_network(card, (preprocessing.height, preprocessing.width))
    state = student.backbone.plain.state_dict()
    missing = {k: v for k, v in model.state_dict().items() if k not in state}
    state |= {key: torch.zeros_like(value) for key, value in missing.items()}
    _write(state, file)
    if student.embedding is not None:
        _write(student.embedding.state_dict(), layer_file)
    model.load_state_dict(_read(file))
    try:
        way = _proven_way(student, model, layer_file, bundle)
    except CheckFailedError:
        for path in (file, layer_file):
            path.unlink(missing_ok=True)
        raise
    embedding = None if student.embedding is None else layer_file
    return PlainWeights(
        backbone=file,
        embedding=embedding,
        zeros=tuple(missing),
        snippet="\n".join(_snippet(student, bundle, making, way, file, embedding)),
    )


def _require_new(file: Path, layer_file: Path) -> None:
    if file.suffix not in _SUFFIXES:
        raise UsageError(
            f"Expected a file of weights that ends in {', '.join(_SUFFIXES)}, got {file}."
        )
    for path in (file, layer_file):
        if path.exists():
            raise UsageError(
                f"{path} exists already. Choose another file, or remove it first."
            )
    if not file.absolute().parent.is_dir():
        raise UsageError(
            f"There is no folder {file.absolute().parent}. Make it, or choose another file."
        )


def _new_network(card: StudentCard, size: tuple[int, int]) -> tuple[nn.Module, str]:
    """Return a new network of the student's architecture, and the code that makes it."""
    if card.imported:
        network, _ = module_from_path(card.architecture, "student")
        factory = card.architecture.partition(":")[2]
        return network.float().eval(), f"{factory}().float()"
    model: nn.Module = timm_model(card.architecture, size=size, arguments=card.arguments)
    given = dict(card.arguments)
    if getattr(model, "pretrained_cfg", {}).get("fixed_input_size"):
        given["img_size"] = list(size)
    more = "".join(f", {key}={value!r}" for key, value in given.items())
    return model.eval(), f'timm.create_model("{card.architecture}", num_classes=0{more})'


def _write(state: State, file: Path) -> None:
    whole = {key: value.detach().contiguous().clone() for key, value in state.items()}
    pending = file.with_name(f".{file.name}.pending")
    try:
        if file.suffix == ".safetensors":
            safetensors.torch.save_file(whole, pending, metadata={"format": "pt"})
        else:
            torch.save(whole, pending)
        os.replace(pending, file)  # noqa: PTH105
    finally:
        pending.unlink(missing_ok=True)


def _read(file: Path) -> State:
    if file.suffix == ".safetensors":
        return safetensors.torch.load_file(file)
    state: State = torch.load(file, weights_only=True)
    return state


def _proven_way(
    student: Student, model: nn.Module, layer_file: Path, bundle: Bundle
) -> str:
    """Return the first way in `_TIMM_WAYS` or `_OWN_WAYS` that gives the embeddings."""
    layer: nn.Module = nn.Identity()
    if student.embedding is not None:
        layer = nn.Linear(student.embedding.in_features, student.embedding.out_features)
        layer.load_state_dict(_read(layer_file))
    ways = _OWN_WAYS if bundle.manifest.student.imported else _TIMM_WAYS
    pixels = torch.from_numpy(bundle.arrays(HELD_OUT)["familiar"][:_IMAGES])
    with torch.inference_mode():
        images = student.backbone.normalised(pixels)
        expected = student.embed(pixels)
        for way, pooled in ways:
            try:
                found = F.normalize(layer(pooled(model, images)), dim=1)
            except (AttributeError, IndexError, RuntimeError, TypeError):
                continue  # this network has no such features
            if _equal(found, expected):
                return way
    raise CheckFailedError(
        f"In a new network the weights of {bundle.path} do not give its embeddings: none "
        f"of {', '.join(way for way, _ in ways)} is the embedding's input. Nothing was "
        f"written; `isogon.networks.student_from_bundle` returns the student in torch."
    )


def _equal(found: Float[Tensor, "..."], expected: Float[Tensor, "b d"]) -> bool:
    return found.shape == expected.shape and bool(
        (found - expected).abs().max() <= _TOLERANCE
    )


def _snippet(
    student: Student,
    bundle: Bundle,
    making: str,
    way: str,
    file: Path,
    embedding: Path | None,
) -> Iterator[str]:
    card, preprocessing = bundle.manifest.student, bundle.manifest.preprocessing
    safe = file.suffix == ".safetensors"
    load = "safetensors.torch.load_file" if safe else "torch.load"
    if safe:
        yield "import safetensors.torch"
    if not card.imported:
        yield "import timm"
    yield "import torch"
    if card.imported:
        yield "from {} import {}".format(*card.architecture.split(":"))
    yield f"model = {making}.eval()"
    yield f"model.load_state_dict({load}({str(file)!r}))"
    pooled = way
    if embedding is not None and student.embedding is not None:
        layer = student.embedding
        yield f"layer = torch.nn.Linear({layer.in_features}, {layer.out_features})"
        yield f"layer.load_state_dict({load}({str(embedding)!r}))"
        pooled = f"layer({way})"
    yield (
        f"# images: float RGB in [0, 1], [b, 3, {preprocessing.height}, "
        f"{preprocessing.width}], cut as isogon/images/preprocessing.py does"
    )
    yield f"mean = torch.tensor({list(preprocessing.mean)}).view(3, 1, 1)"
    yield f"std = torch.tensor({list(preprocessing.std)}).view(3, 1, 1)"
    yield "images = (images - mean) / std"
    yield f"embeddings = torch.nn.functional.normalize({pooled}, dim=1)"

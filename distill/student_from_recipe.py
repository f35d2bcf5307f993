"""The student that a recipe names, before it is trained."""

import copy
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.export import Dim

from distill.recipe import Recipe
from distill.recipe.sections import own_preprocessing
from distill.weights import pretrained, why_unloadable
from isogon.bundle import StudentCard
from isogon.errors import UsageError
from isogon.images import Preprocessing
from isogon.networks import (
    Student,
    architecture_of,
    code_of,
    error_line,
    own_network,
    preprocessing_of,
    timm_model,
)


def student_from_recipe(recipe: Recipe) -> tuple[Student, str]:
    """Return the student before training and the licence of its weights.

    Its random weights depend on the recipe's seed alone, so `isogon evaluate` gets the same
    network again.

    Raises:
        UsageError: the network or its weights cannot be loaded, or are unsuitable.
    """
    section = recipe.student
    size = recipe.data.size, recipe.data.size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.train.seed)
        if section.imported:
            return _own(recipe), "none given"
        if section.from_pretrained:
            source = pretrained(section.name, section.checkpoint, size=size)
            model, licence = source.model, source.licence
        else:
            model, licence = timm_model(section.name, size=size), "none given"
        student = Student.new(
            model,
            student_preprocessing(recipe),
            width=section.width,
            fitted=section.in_closed_form,
        )
        return student, licence


def student_preprocessing(recipe: Recipe) -> Preprocessing:
    """Return the recipe's crop and size with the normalisation of its student."""
    section, data = recipe.student, recipe.data
    if not section.imported:
        made = preprocessing_of(section.name, data.size, data.crop)
        return made.model_copy(update={"range": data.range})
    return own_preprocessing(
        section.mean, section.std, size=data.size, crop=data.crop, samples=data.range
    )


def card_of(student: Student, recipe: Recipe, licence: str) -> StudentCard:
    """Return what a bundle says about a student: enough to build it again."""
    section = recipe.student
    architecture, arguments, code = section.name, {}, {}
    if section.imported:
        code = code_of(section.name, student.backbone.plain)
    else:
        known = architecture_of(section.name)
        architecture, arguments = known.name, known.arguments
    return StudentCard(
        architecture=architecture,
        licence=licence,
        width=student.width,
        embedding_layer=student.embedding is not None,
        parameters=sum(parameter.numel() for parameter in student.parameters()),
        arguments=arguments,
        code=code,
    )


def require_trainable(student: Student, name: str, size: tuple[int, int]) -> None:
    """Refuse a user's own network that cannot be trained, saved or exported.

    A copy of it runs on noise in training mode, and is traced as in export.

    Args:
        student: a student with this network as its backbone.
        name: of the network.
        size: (height, width) of the images.

    Raises:
        UsageError: says what the network cannot do.
    """
    try:
        trial = copy.deepcopy(student)
    except Exception as error:  # a user's module may raise any type
        raise _unfit(name, "cannot be copied", error) from error
    odd = [key for key, value in trial.state_dict().items() if not _is_dense(value)]
    if odd:
        raise UsageError(
            f"Expected only dense tensors in the state dict of {name}, got others at "
            f"{', '.join(odd[:3])}; safetensors cannot store these."
        )
    pixels = torch.randint(0, 256, (4, *size, 3), dtype=torch.uint8)
    try:
        tokens = trial.train()(pixels).tokens
        if tokens.requires_grad:
            (tokens * torch.randn_like(tokens)).sum().backward()
    except UsageError:
        raise
    except Exception as error:
        what = "failed in training mode on four images of noise"
        raise _unfit(name, what, error) from error
    if all(parameter.grad is None for parameter in trial.backbone.parameters()):
        raise UsageError(
            f"No weight of {name} would be trained: in training mode none gets a "
            f"gradient. Set `requires_grad` on them, and do not detach the output."
        )
    shapes = {"pixels": {0: Dim("batch")}}
    try:
        with torch.no_grad():
            torch.export.export(
                _Embedding(trial).eval(), (pixels[:2],), dynamic_shapes=shapes
            )
    except Exception as error:
        raise UsageError(
            f"{name} can be trained, but neither exported nor served: torch.export does "
            f"not trace it for batches of any size: {error_line(error)} … Use "
            f"`x.shape[0]` for the size of a batch, not `len(x)`, and no Python `if` on "
            f"values of tensors."
        ) from error


def _own(recipe: Recipe) -> Student:
    section = recipe.student
    backbone = own_network(section.name, student_preprocessing(recipe))
    if section.checkpoint is not None:
        _fill(backbone.network, section.name, Path(section.checkpoint))
    return Student.on(backbone, width=section.width, fitted=section.in_closed_form)


def _fill(network: nn.Module, name: str, path: Path) -> None:
    """Load a state dict with exactly the network's names and shapes."""
    if not path.is_file():
        raise UsageError(f"There are no weights for {name} at {path}.")
    try:
        if path.suffix == ".safetensors":
            state = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(state)
    except Exception as error:  # from torch, pickle or safetensors
        raise UsageError(
            f"{path} does not fit {name}: {why_unloadable(error)}. Expected its state dict "
            f"(.safetensors or .pth), as `torch.save(network.state_dict(), path)` "
            f"writes it."
        ) from error


class _Embedding(nn.Module):
    """The module that export traces."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(self, pixels: Tensor) -> Tensor:
        return self.student.embed(pixels)


def _is_dense(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided


def _unfit(name: str, what: str, error: Exception) -> UsageError:
    return UsageError(f"{name} {what}: {error_line(error)}.")

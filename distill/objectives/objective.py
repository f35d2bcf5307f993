"""The interface of objectives: named loss terms from student and teacher features."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from jaxtyping import Float, Int
from torch import Tensor, nn

from distill.recipe.sections import ObjectiveSection
from isogon.networks import Features, Student

Terms = dict[str, Float[Tensor, ""]]
# The class numbers of a batch, or None where the images have no classes.
Labels = Int[Tensor, " _"] | None
# Which training images `start` needs.
StartOn = Literal["nothing", "sample", "everything"]

# Images in a sample: enough for the second moments of tokens.
SAMPLE = 2048


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """The sizes for which an objective is made."""

    teacher_width: int  # of the teacher's tokens
    student_width: int  # of the student's
    classes: int = 0  # of the training images, or pseudo-classes; 0: none


class Objective(nn.Module, ABC):
    """A loss with its own trainable heads, which are not part of the student.

    A subclass implements `forward`. `from_section` makes it from a recipe's table; by
    default it calls `cls(teacher_width, student_width)`. The keys of the table are the
    fields of its `section`.
    """

    section: ClassVar[type[ObjectiveSection]] = ObjectiveSection

    # Whether the teacher's cells (patch tokens) are required, beside its pooled vector.
    # False if an objective uses cells but works without them; its docstring then says
    # which terms remain.
    needs_tokens: bool = False

    @classmethod
    def from_section(cls, section: Any, sizes: Sizes) -> "Objective":
        """Return the objective that a recipe's table asks for.

        Args:
            section: the table, of the type `cls.section`.
            sizes: of the models and of the images' classes.

        Raises:
            UsageError: the sizes are unsuitable, for example too few classes.
        """
        return cls(sizes.teacher_width, sizes.student_width)

    @abstractmethod
    def forward(self, student: Features, teacher: Features, labels: Labels = None) -> Terms:
        """Return the terms by name; the loss is their sum.

        The teacher's features carry no gradient. If only the teacher's embeddings are
        known, they have one token and the grid (0, 0): see `needs_tokens`.
        """

    @property
    def start_on(self) -> StartOn:
        """The images that `start` gets before the first step of a run.

        `sample`: the first `SAMPLE` images with their tokens. `everything`: the whole
        training set, of which only the pooled vectors may be read.
        """
        return "nothing"

    def start(self, sample: Iterable[tuple[Features, Labels]]) -> None:
        """Set heads and buffers from the teacher, before training.

        Called once, unless `start_on` is `nothing`. Not called in a continued run: the
        state dict holds what it sets.

        Args:
            sample: the teacher's features of training images without augmentation,
                batch by batch in random order, with their class numbers.
        """

    def begin(self, compression: Float[Tensor, "s t"], length: float) -> None:
        """Set heads for a student whose embeddings are a compression of the teacher's.

        Called once, after `start`, if the student starts in closed form: a random head
        would first damage the student's features.

        Args:
            compression: orthogonal rows of unit norm; zero rows if the student is wider.
                For a unit pooled vector t of the teacher, the student's vector is about
                compression @ t.
            length: the mean norm of the teacher's pooled vectors.
        """

    def student_targets(self, teacher: Float[Tensor, "b t"]) -> Float[Tensor, "b s"] | None:
        """Return the targets of the student's pooled vectors; called after `start`.

        None if any compression of the teacher's vectors is suitable: then uncentred PCA
        is used.

        Args:
            teacher: the teacher's pooled vectors, not normalised.
        """
        return None

    def at_epoch(self, epoch: float) -> None:
        """Set weights that change during training; called before each epoch or more often.

        Without a call they have their final value. They are not in the state dict: a
        continued run calls this again.

        Args:
            epoch: the number of finished epochs.
        """

    def to_teacher(self) -> nn.Linear | None:
        """Return the trained linear map from the student's space to the teacher's.

        The mapped pooled vector of the student has the direction of the teacher's pooled
        vector, so that it can query an index of the teacher's. None if the objective
        trains no such map.
        """
        return None

    def why_untrained(self, student: Student, name: str) -> str | None:
        """Return why no term trains the student's embedding; None if one does.

        A recipe is refused if all of its objectives return a reason.

        Args:
            student: the student.
            name: of its network, for the message.
        """
        return None

    def undecayed(self) -> set[str]:
        """Return the names of parameters without weight decay."""
        return set()

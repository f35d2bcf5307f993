"""What every objective is: named loss terms from student and teacher features."""

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
# Which training images `start` is to see.
StartOn = Literal["nothing", "sample", "everything"]

# How many images make a sample: enough for the second moments of tokens.
SAMPLE = 2048


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """The sizes that an objective is made for."""

    teacher_width: int  # of the teacher's tokens
    student_width: int  # of the student's
    classes: int = 0  # of the training images, pseudo-classes included; 0: none


class Objective(nn.Module, ABC):
    """A loss with its own trainable heads, which are not part of the student.

    A subclass implements `forward`. It is made from a recipe's table by `from_section`,
    which by default calls `cls(teacher_width, student_width)`. Further keys of the table
    are the fields of its `section`.
    """

    section: ClassVar[type[ObjectiveSection]] = ObjectiveSection

    # Whether the teacher's cells (patch tokens) are required, not only its pooled vector.
    # False for an objective that uses cells but works without them; its docstring says
    # which terms then remain.
    needs_tokens: bool = False

    @classmethod
    def from_section(cls, section: Any, sizes: Sizes) -> "Objective":
        """Return the objective that a recipe's table asks for.

        Args:
            section: the table, of the type `cls.section`.
            sizes: of the models and of the images' classes.

        Raises:
            UsageError: the sizes do not suit, such as too few classes.
        """
        return cls(sizes.teacher_width, sizes.student_width)

    @abstractmethod
    def forward(self, student: Features, teacher: Features, labels: Labels = None) -> Terms:
        """Return the terms by name; the loss is their sum.

        The teacher's features carry no gradient. Where only the teacher's embeddings
        are known they hold one token and the grid is (0, 0): see `needs_tokens`.
        """

    @property
    def start_on(self) -> StartOn:
        """What `start` is to be called with before the first step of a run.

        `sample` asks for the first `SAMPLE` images with their tokens; `everything` for
        the whole training set, of which only the pooled vectors are read.
        """
        return "nothing"

    def start(self, sample: Iterable[tuple[Features, Labels]]) -> None:
        """Set heads and buffers from the teacher, before training.

        Called once, unless `start_on` is `nothing`, and not in a continued run: what it
        sets is in the state dict.

        Args:
            sample: the teacher's features of training images without augmentation,
                batch by batch in random order, with their class numbers.
        """

    def begin(self, compression: Float[Tensor, "s t"], length: float) -> None:
        """Set heads for a student whose embeddings are a compression of the teacher's.

        Called once, after `start`, where the student starts in closed form: a head that
        starts at random would first destroy what the student begins with.

        Args:
            compression: rows of unit norm, orthogonal; zero where the student is wider.
                Of a unit pooled vector t of the teacher the student gives about
                compression @ t.
            length: the mean norm of the teacher's pooled vectors.
        """

    def student_targets(self, teacher: Float[Tensor, "b t"]) -> Float[Tensor, "b s"] | None:
        """Return where the student's pooled vectors should point, as known after `start`.

        None where any compression of the teacher's vectors does; then it is uncentred PCA.

        Args:
            teacher: the teacher's pooled vectors, of their own norm.
        """
        return None

    def at_epoch(self, epoch: float) -> None:
        """Note how many epochs are done; called before each epoch or more often.

        For weights that grow during training. Without a call they have their final value.
        They are not in the state dict: a continued run calls this again.
        """

    def to_teacher(self) -> nn.Linear | None:
        """Return the trained linear map from the student's space to the teacher's.

        Applied to the student's pooled vector it points where the teacher's pooled
        vector points, so that an index built by the teacher can be queried. None where
        the objective trains no such map.
        """
        return None

    def untaught(self, student: Student, name: str) -> str | None:
        """Return why no term reaches the student's embedding; None where one does.

        A recipe all of whose objectives have a reason is refused.

        Args:
            student: what is to be trained.
            name: of its network, for the message.
        """
        return None

    def undecayed(self) -> set[str]:
        """Return the names of parameters that weight decay must leave alone."""
        return set()

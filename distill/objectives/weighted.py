"""The weighted sum of several objectives."""

from collections.abc import Iterable, Mapping

from jaxtyping import Float
from torch import Tensor, nn

from distill.objectives.objective import SAMPLE, Labels, Objective, StartOn, Terms
from isogon.networks import Features, Student


class Weighted(Objective):
    """The weighted sum of objectives; with several, a term is called `<name>.<term>`."""

    def __init__(self, parts: Mapping[str, tuple[float, Objective]]) -> None:
        super().__init__()
        self.objectives = nn.ModuleDict({name: part for name, (_, part) in parts.items()})
        self.weights = {name: weight for name, (weight, _) in parts.items()}
        self.needs_tokens = any(part.needs_tokens for part in self._parts())

    def forward(self, student: Features, teacher: Features, labels: Labels = None) -> Terms:
        """Return every objective's terms, weighted."""
        alone = len(self.weights) == 1
        return {
            term if alone else f"{name}.{term}": self.weights[name] * value
            for name, objective in self.objectives.items()
            for term, value in objective(student, teacher, labels).items()
        }

    @property
    def start_on(self) -> StartOn:
        """The most images that any of them needs."""
        wanted = {part.start_on for part in self._parts()}
        if "everything" in wanted:
            return "everything"
        return "sample" if "sample" in wanted else "nothing"

    def start(self, sample: Iterable[tuple[Features, Labels]]) -> None:
        """Start each objective in one pass over the features.

        If several need a start, the tokens of the first `SAMPLE` images are kept for
        those that need a sample, and the pooled vectors of all images for the others.
        """
        on_sample = [part for part in self._parts() if part.start_on == "sample"]
        on_all = [part for part in self._parts() if part.start_on == "everything"]
        if len(on_sample) + len(on_all) == 1:
            (on_sample + on_all)[0].start(sample)
            return
        kept: list[tuple[Features, Labels]] = []
        pooled: list[tuple[Features, Labels]] = []
        images = 0
        for features, labels in sample:
            if on_sample and images < SAMPLE:
                kept.append((features.cpu(), labels))
            if on_all:
                vectors = Features(tokens=features.tokens[:, :1].cpu().clone(), grid=(0, 0))
                pooled.append((vectors, labels))
            images += len(features.tokens)
        for part in on_sample:
            part.start(kept)
        for part in on_all:
            part.start(pooled)

    def begin(self, compression: Float[Tensor, "s t"], length: float) -> None:
        """Set the heads of each objective."""
        for part in self._parts():
            part.begin(compression, length)

    def student_targets(self, teacher: Float[Tensor, "b t"]) -> Float[Tensor, "b s"] | None:
        """Return the targets of the recipe's first objective that has any."""
        found = (part.student_targets(teacher) for part in self._parts())
        return next((targets for targets in found if targets is not None), None)

    def at_epoch(self, epoch: float) -> None:
        """Set the changing weights of each objective."""
        for part in self._parts():
            part.at_epoch(epoch)

    def to_teacher(self) -> nn.Linear | None:
        """Return the map of the recipe's first objective that trains one."""
        maps = (part.to_teacher() for part in self._parts())
        return next((found for found in maps if found is not None), None)

    def why_untrained(self, student: Student, name: str) -> str | None:
        """Return the first objective's reason if all have one."""
        reasons = [part.why_untrained(student, name) for part in self._parts()]
        return None if None in reasons else reasons[0]

    def undecayed(self) -> set[str]:
        """Return the names of all objectives' undecayed parameters in this module."""
        return {
            f"objectives.{name}.{parameter}"
            for name, part in zip(self.weights, self._parts(), strict=True)
            for parameter in part.undecayed()
        }

    def _parts(self) -> list[Objective]:
        return [part for part in self.objectives.values() if isinstance(part, Objective)]

"""Several objectives at once, each with its weight."""

from collections.abc import Iterable, Mapping

from torch import nn

from backbones import Features
from distill.objectives.objective import Objective, Terms


class Weighted(Objective):
    """The weighted sum of objectives; with several, a term is called `<name>.<term>`."""

    def __init__(self, parts: Mapping[str, tuple[float, Objective]]) -> None:
        super().__init__()
        self.objectives = nn.ModuleDict({name: part for name, (_, part) in parts.items()})
        self.weights = {name: weight for name, (weight, _) in parts.items()}

    def forward(self, student: Features, teacher: Features) -> Terms:
        """Return every objective's terms, weighted."""
        alone = len(self.weights) == 1
        return {
            term if alone else f"{name}.{term}": self.weights[name] * value
            for name, objective in self.objectives.items()
            for term, value in objective(student, teacher).items()
        }

    def start(self, teacher: Iterable[Features]) -> None:
        """Start each objective on the same features, which are therefore kept."""
        wanting = [part for part in self._parts() if part.wants_start]
        kept = list(teacher) if len(wanting) > 1 else teacher
        for part in wanting:
            part.start(kept)

    @property
    def wants_start(self) -> bool:
        """Whether any of them does."""
        return any(part.wants_start for part in self._parts())

    def undecayed(self) -> set[str]:
        """Return the names of each objective's undecayed parameters, from here."""
        return {
            f"objectives.{name}.{parameter}"
            for name, part in zip(self.weights, self._parts(), strict=True)
            for parameter in part.undecayed()
        }

    def _parts(self) -> list[Objective]:
        return [part for part in self.objectives.values() if isinstance(part, Objective)]

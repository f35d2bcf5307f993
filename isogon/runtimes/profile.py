"""The batch sizes an engine is built for."""

import re
from dataclasses import dataclass

from isogon.errors import UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchProfile:
    """The smallest, the most usual and the largest batch an engine answers.

    Raises:
        UsageError: not 1 <= minimum <= optimum <= maximum.
    """

    minimum: int = 1
    optimum: int = 8
    maximum: int = 32

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.optimum <= self.maximum:
            raise UsageError(
                f"The batch profile {self} is out of order; expected MIN:OPT:MAX with "
                f"1 <= MIN <= OPT <= MAX, such as 1:8:32."
            )

    @classmethod
    def parse(cls, text: str) -> "BatchProfile":
        """Return the profile written as "MIN:OPT:MAX", such as "1:8:32".

        Raises:
            UsageError: it is not three whole numbers in that order.
        """
        found = re.fullmatch(r"(\d+):(\d+):(\d+)", text.strip(), re.ASCII)
        if found is None:
            raise UsageError(
                f"{text!r} is no batch profile; expected MIN:OPT:MAX, such as 1:8:32."
            )
        minimum, optimum, maximum = map(int, found.groups())
        return cls(minimum=minimum, optimum=optimum, maximum=maximum)

    def __str__(self) -> str:
        return f"{self.minimum}:{self.optimum}:{self.maximum}"

"""What an ONNX file says of images, as a table."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from isogon.cli.tables import add_row, titled
from isogon.cli.terminal import note, out

if TYPE_CHECKING:
    from isogon.model import Answer, Model, Unread


def answers(model: "Model", found: "Sequence[Answer | Unread]") -> None:
    """Print score, p-value and verdict of each image; name those that were not read."""
    from isogon.model import Answer

    table = titled(model.name, "image", "OOD score", "p", "", "embedding")
    table.columns[0].overflow = "fold"  # a name is read to its end
    for one in found:
        if not isinstance(one, Answer):
            continue
        verdict = (
            Text("unfamiliar", "bold red") if one.is_ood else Text("familiar", "green")
        )
        begins = " ".join(f"{value:+.3f}" for value in one.embedding[:3])
        add_row(
            table,
            one.name,
            f"{one.ood_score:.4f}",
            f"{one.p_value:.4f}",
            verdict,
            f"{begins} … [{len(one.embedding)}]",
        )
    table.caption = (
        f"A p-value of at most {model.calibration.alpha:g} is unfamiliar; "
        f"fingerprint {model.fingerprint[:12]}…"
    )
    table.caption_justify = "left"
    if table.rows:
        out.print(table)
    for one in found:
        if not isinstance(one, Answer):
            note(f"{one.name} {one.reason}")

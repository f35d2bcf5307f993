"""Draw the teacher's cosines against the small network's, before and after distilling.

    python benchmarks/angles.py textures.isogon > docs/pictures/angles.svg

The images and the teacher of the bundle's recipe must be available. The picture has light
and dark colours; its description names the source of the figures.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from rich.console import Console
from rich.progress import Progress

from distill.embedding import RoleEmbeddings, embed_all
from distill.evaluation.model_figures import fidelity
from distill.evaluation.undistilled import undistilled
from distill.images.data import prepare_data
from distill.recipe import Recipe, recipe_from_toml
from distill.recipe.writing import placed_here
from distill.student_from_recipe import student_from_recipe
from distill.targets import teacher_from_recipe
from isogon.bundle import Bundle
from isogon.networks import student_from_bundle

CELLS = 56  # along each axis
SIDE = 280  # of a panel, in pixels
_STYLE = """
svg { color: #24292f; font: 13px system-ui, sans-serif }
text { fill: currentColor }
.title { font-weight: 600; font-size: 15px }
.panel { fill: none; stroke: currentColor; stroke-opacity: .35 }
.equal { stroke: currentColor; stroke-opacity: .6; stroke-dasharray: 4 4 }
.before { fill: #b35900 }
.after { fill: #0969da }
@media (prefers-color-scheme: dark) {
  svg { color: #e6edf3 }
  .before { fill: #f0883e }
  .after { fill: #58a6ff }
}"""


def cosines_of(embedded: RoleEmbeddings) -> Float[np.ndarray, " pairs"]:
    """Return the cosine of every test image with every bank image."""
    found: np.ndarray = (embedded.test @ embedded.bank.T).ravel()
    return found


def measured(
    bundle: Bundle, recipe: Recipe, progress: Progress
) -> dict[str, RoleEmbeddings]:
    """Return the unit-norm embeddings of teacher, undistilled network and student."""
    device = torch.device("cpu")
    data = prepare_data(recipe, progress)
    teacher = teacher_from_recipe(recipe, data.familiar)
    teacher.prepare(data.split.bank, device, progress)
    before, _ = student_from_recipe(recipe)
    student = student_from_bundle(bundle)
    found = embed_all(
        teacher,
        student.embed,
        before.backbone.eval().requires_grad_(False),
        data,
        bundle.manifest.preprocessing,
        progress,
        device=device,
        workers=0,
    )
    if found.teacher is None or found.pooled is None:
        sys.exit("Expected a bundle with a teacher that embeds, got one without.")
    return {
        "teacher": found.teacher,
        "before": undistilled(found.pooled, student.width),
        "after": found.student,
    }


def panel(
    kind: str, title: str, left: int, theirs: np.ndarray, ours: np.ndarray, low: float
) -> str:
    """Return one panel: squares whose opacity grows with the number of pairs."""
    counts, _, _ = np.histogram2d(theirs, ours, bins=CELLS, range=[[low, 1], [low, 1]])
    side = SIDE / CELLS
    squares = []
    for (column, row), count in np.ndenumerate(counts):
        if count:
            strength = np.log1p(count) / np.log1p(counts.max())
            x, y = left + column * side, 40 + SIDE - (row + 1) * side
            squares.append(
                f'<rect x="{x:.0f}" y="{y:.0f}" width="{side:.0f}" height="{side:.0f}" '
                f'fill-opacity="{strength:.2f}"/>'
            )
    return (
        f'<text class="title" x="{left}" y="24">{title}</text>'
        f'<g class="{kind}">{"".join(squares)}</g>'
        f'<rect class="panel" x="{left}" y="40" width="{SIDE}" height="{SIDE}"/>'
        f'<line class="equal" x1="{left}" y1="{40 + SIDE}" x2="{left + SIDE}" y2="40"/>'
        f'<text x="{left}" y="{SIDE + 58}">{low:.1f}</text>'
        f'<text x="{left + SIDE}" y="{SIDE + 58}" text-anchor="end">1</text>'
        f'<text x="{left + SIDE / 2}" y="{SIDE + 58}" text-anchor="middle">'
        "cosine by the teacher</text>"
    )


def picture(found: dict[str, RoleEmbeddings], told: str) -> str:
    """Return the SVG."""
    cosines = {name: cosines_of(each) for name, each in found.items()}
    low = np.floor(10 * min(np.quantile(one, 0.001) for one in cosines.values())) / 10
    titles = {"before": "the small network as it is", "after": "distilled by Isogon"}
    parts = []
    for number, (kind, title) in enumerate(titles.items()):
        kept = fidelity(found["teacher"], found[kind], same_space=False)
        left = 40 + number * (SIDE + 60)
        parts.append(
            panel(kind, title, left, cosines["teacher"], cosines[kind], float(low))
            + f'<text x="{left}" y="{SIDE + 80}">off by {kept.angle_distortion:.3f}; '
            f"{100 * kept.neighbour_overlap:.0f} % of neighbours kept</text>"
        )
    width, height = 2 * SIDE + 140, SIDE + 96
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img">'
        f"<title>Cosines of image pairs, small network against teacher</title>"
        f"<desc>{told}</desc><style>{_STYLE}</style>{''.join(parts)}"
        f'<text transform="rotate(-90 20 {40 + SIDE / 2})" x="20" y="{40 + SIDE / 2}" '
        'text-anchor="middle">cosine by the small network</text></svg>\n'
    )


def main() -> None:
    """Print the picture of the bundle that is named."""
    bundle = Bundle.open(Path(sys.argv[1]))
    recipe = placed_here(recipe_from_toml(bundle.file("recipe.toml")), bundle.path.parent)
    recipe = recipe.model_copy(update={"unfamiliar": ()})  # not used here
    with Progress(console=Console(stderr=True), disable=True) as progress:
        found = measured(bundle, recipe, progress)
    told = (
        f"{bundle.manifest.name}: teacher {bundle.manifest.teacher.architecture}, student "
        f"{bundle.manifest.student.architecture}, {len(found['after'].test)} test images "
        f"against {len(found['after'].bank)}; made by benchmarks/angles.py."
    )
    print(picture(found, told), end="")


if __name__ == "__main__":
    main()

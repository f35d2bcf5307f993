"""Synthetic images: where the student imitates its teacher far from the familiar images.

A student that only ever sees familiar images may map others among them: its unfamiliar
(OOD) images are found less well than before training. So it also imitates the teacher on
images without a class. Half of them are drawn (noise, dead leaves, gratings, strokes); the
other half are training images, altered until they no longer show what they showed (tiles
in another order, close-ups, two blended, negatives). They only ever teach: they are not
references, validate nothing and calibrate nothing.

That a teacher can be imitated on any image is from Beyer et al., arXiv:2106.05237; noise
and dead leaves as images to learn from, from Baradad et al., arXiv:2106.05963. Our choice
of kinds and shares is from the experiments in docs/concepts/distilling.md.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from distill.recipe import DataSection
from isogon.images import Images
from isogon.images.collection import Indices

MOST = 500  # synthetic images of a run; more training images need no more of them
_SHARE, _MANY = 0.25, 10_000  # by size: the share, and training images that need none
UNLABELLED = -1  # the class number of an image without a class
_VERSION = 1  # of what is drawn; part of the names, which stored features depend on
_SIDE = 128  # pixels
_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)


def synthetic_share(data: DataSection, training: int) -> float:
    """Return how many synthetic images there are for each of the training images.

    With 14,000 training images detection gains by training alone, and 500 synthetic ones
    cost 0.004 of overlap@10 for 0.008 of far AUROC.
    """
    if data.synthetic == "by-size":
        return _SHARE if training < _MANY else 0.0
    return data.synthetic


def with_synthetic(real: Images, training: Indices, share: float, seed: int) -> Images:
    """Return the images of a source, and after them synthetic ones.

    Args:
        real: the images of the source.
        training: those of `real` that steps learn from; no others are altered.
        share: how many synthetic images there are for each of `training`; at most `MOST`.
        seed: of all random draws.
    """
    count = min(round(share * len(training)), MOST)
    if not count:
        return real
    generator = np.random.default_rng((seed, _VERSION))
    pairs = generator.choice(training, (count, 2)).tolist()
    # With the names of what they are made from: stored features depend on the names.
    names = [
        f"synthetic {_VERSION}/{number:05}, {_kind(number)} of {real.names[first]} and "
        f"{real.names[second]}"
        for number, (first, second) in enumerate(pairs)
    ]
    return WithSynthetic(
        where=real.where,
        names=[*real.names, *names],
        classes=real.classes,
        class_numbers=[*real.class_numbers, *[UNLABELLED] * count],
        range=real.range,
        real=real,
        made_from=tuple((first, second) for first, second in pairs),
        seed=seed,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class WithSynthetic(Images):
    """The images of a source, and after them synthetic ones.

    A synthetic image is a function of the seed, its number and two training images.
    """

    real: Images
    made_from: tuple[tuple[int, int], ...]  # two training images for each synthetic one
    seed: int

    def image(self, index: int) -> Image.Image:
        """Return an image of the source, or draw a synthetic one."""
        number = index - len(self.real)
        if number < 0:
            return self.real.image(index)
        generator = np.random.default_rng((self.seed, _VERSION, number))
        kind = _kind(number)
        if kind in DRAWN:
            return DRAWN[kind](generator)
        first, second = (_square(self.real.image(one)) for one in self.made_from[number])
        return ALTERED[kind](generator, first, second)

    def file(self, index: int) -> Path | None:
        """Return the file of an image of the source."""
        return self.real.file(index) if index < len(self.real) else None

    def files(self) -> Iterable[Path]:
        """Yield the files of the source."""
        return self.real.files()


def _kind(number: int) -> str:
    kinds = [kind for pair in zip(DRAWN, ALTERED, strict=True) for kind in pair]
    return kinds[number % len(kinds)]


def _square(image: Image.Image) -> Image.Image:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    return image.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC, box=box)


def _noise(generator: np.random.Generator) -> Image.Image:
    """Return noise whose amplitude falls with frequency, as in photographs."""
    frequency = np.fft.fftfreq(_SIDE)
    distance = np.hypot(frequency[:, None], frequency)
    distance[0, 0] = 1 / _SIDE
    falls = distance ** generator.uniform(0.5, 2.5)
    shared = generator.normal(size=(_SIDE, _SIDE))
    channels = []
    for _ in range(3):
        white = shared + 0.5 * generator.normal(size=(_SIDE, _SIDE))
        field = np.fft.ifft2(np.fft.fft2(white) / falls).real
        field = (field - field.mean()) / field.std()
        channels.append(field * generator.uniform(20, 60) + generator.uniform(60, 200))
    return _clipped(np.stack(channels, axis=2))


def _leaves(generator: np.random.Generator) -> Image.Image:
    """Return dead leaves: shapes of many sizes that cover each other."""
    image = Image.new("RGB", (_SIDE, _SIDE), _colour(generator))
    draw = ImageDraw.Draw(image)
    for _ in range(generator.integers(30, 400)):
        radius = min(_SIDE / 2, 2 + 4 * generator.pareto(1.5))
        x, y = generator.uniform(0, _SIDE, 2)
        if generator.random() < 0.5:
            box = (x - radius, y - radius, x + radius, y + radius)
            draw.ellipse(box, fill=_colour(generator))
            continue
        angles = np.sort(generator.uniform(0, 2 * np.pi, generator.integers(3, 6)))
        corners = zip(x + radius * np.cos(angles), y + radius * np.sin(angles), strict=True)
        draw.polygon(list(corners), fill=_colour(generator))
    return image


def _gratings(generator: np.random.Generator) -> Image.Image:
    """Return a sum of up to three coloured waves, some of them with hard edges."""
    down, across = np.mgrid[:_SIDE, :_SIDE]
    total = np.broadcast_to(generator.uniform(60, 200, 3), (_SIDE, _SIDE, 3))
    for _ in range(generator.integers(1, 4)):
        angle, cycles = generator.uniform(0, np.pi), generator.uniform(1, 40)
        place = (across * np.cos(angle) + down * np.sin(angle)) / _SIDE
        wave = np.sin(2 * np.pi * (cycles * place + generator.random()))
        if generator.random() < 0.4:
            wave = np.sign(wave)
        total = total + wave[..., None] * generator.uniform(-90, 90, 3)
    return _clipped(total)


def _strokes(generator: np.random.Generator) -> Image.Image:
    """Return a few lines on a plain ground, such as writing or a drawing."""
    ground = _WHITE if generator.random() < 0.5 else _colour(generator)
    image = Image.new("RGB", (_SIDE, _SIDE), ground)
    draw = ImageDraw.Draw(image)
    for _ in range(generator.integers(1, 12)):
        places = generator.uniform(0.08, 0.92, (generator.integers(2, 8), 2)) * _SIDE
        ink = _BLACK if generator.random() < 0.5 else _colour(generator)
        width = int(generator.integers(1, 8))
        draw.line([tuple(place) for place in places], fill=ink, width=width, joint="curve")
    return image


def _tiles(
    generator: np.random.Generator, image: Image.Image, _other: Image.Image
) -> Image.Image:
    """Return the image's tiles in another order."""
    across = int(generator.choice([2, 4, 8]))
    side = _SIDE // across
    grid = np.asarray(image).reshape(across, side, across, side, 3).swapaxes(1, 2)
    order = generator.permutation(across**2)
    tiles = grid.reshape(across**2, side, side, 3)[order].reshape(grid.shape)
    return Image.fromarray(tiles.swapaxes(1, 2).reshape(_SIDE, _SIDE, 3))


def _close_up(
    generator: np.random.Generator, image: Image.Image, _other: Image.Image
) -> Image.Image:
    """Return a small part of the image, enlarged."""
    side = int(generator.integers(_SIDE // 8, _SIDE // 3))
    left, top = generator.integers(0, _SIDE - side, 2).tolist()
    box = (left, top, left + side, top + side)
    return image.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC, box=box)


def _blend(
    _generator: np.random.Generator, image: Image.Image, other: Image.Image
) -> Image.Image:
    """Return two images laid over one another, one of them upside down."""
    return Image.blend(image, other.transpose(Image.Transpose.FLIP_TOP_BOTTOM), 0.5)


def _negative(
    generator: np.random.Generator, image: Image.Image, _other: Image.Image
) -> Image.Image:
    """Return the negative, turned by a multiple of a right angle."""
    turned = np.rot90(255 - np.asarray(image), int(generator.integers(4)))
    return Image.fromarray(np.ascontiguousarray(turned))


def _clipped(values: np.ndarray) -> Image.Image:
    pixels: UInt8[np.ndarray, "h w 3"] = values.clip(0, 255).astype(np.uint8)
    return Image.fromarray(pixels)


def _colour(generator: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = generator.integers(0, 256, 3).tolist()
    return red, green, blue


DRAWN: dict[str, Callable[[np.random.Generator], Image.Image]] = {
    "noise": _noise,
    "leaves": _leaves,
    "gratings": _gratings,
    "strokes": _strokes,
}
ALTERED: dict[
    str, Callable[[np.random.Generator, Image.Image, Image.Image], Image.Image]
] = {
    "tiles": _tiles,
    "close-up": _close_up,
    "blend": _blend,
    "negative": _negative,
}

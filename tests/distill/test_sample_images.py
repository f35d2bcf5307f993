from pathlib import Path

import numpy as np
from PIL import Image
from rich.progress import Progress
from sklearn.datasets import load_digits

from distill.images.sample_images import sample_images


def test_sample_images_are_the_digits_and_photographs_written_once(
    tmp_path: Path, progress: Progress
) -> None:
    familiar, unfamiliar = sample_images(tmp_path, progress)
    written = sorted(familiar.rglob("*.png"), key=lambda path: path.stem)
    data = load_digits()
    assert [path.stem for path in written] == [f"{n:04}" for n in range(1797)]
    assert [int(path.parent.name) for path in written] == data.target.tolist()
    pixels = np.stack([np.asarray(Image.open(path)) for path in written])
    assert np.array_equal(np.rint(pixels * (16 / 255)), data.images)
    names = {path.stem for path in unfamiliar.iterdir()}
    whole = {name for name in names if f"{name}_0" in names}
    assert len(whole) == 21
    assert names == whole | {f"{name}_{part}" for name in whole for part in range(4)}
    assert {path.name for path in tmp_path.iterdir()} == {"familiar", "unfamiliar"}

    written[0].unlink()
    assert sample_images(tmp_path, progress) == (familiar, unfamiliar)
    assert not written[0].exists()

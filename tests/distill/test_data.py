import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.progress import Progress

from distill import Recipe
from distill.distillation import distill
from distill.images.data import prepare_data
from isogon.bundle import Bundle
from isogon.errors import UsageError
from isogon.images import Preprocessing
from isogon.ood import DetectorSpec

EIGHT = Preprocessing(height=8, width=8, mean=(0.5,) * 3, std=(0.5,) * 3)


def changed(recipe: Recipe, *, unfamiliar: object = (), **data: object) -> Recipe:
    document = recipe.model_dump()
    document["data"] |= data
    return Recipe.model_validate(document | {"unfamiliar": unfamiliar})


def test_a_source_of_its_own_is_calibrated_and_tested_on_and_all_else_is_learnt(
    recipe: Recipe, digits: Path, tmp_path: Path, progress: Progress
) -> None:
    train, test = tmp_path / "train", tmp_path / "test"
    for number, path in enumerate(sorted(digits.rglob("*.png"))):
        copy = (train if number % 3 else test) / path.relative_to(digits)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    data = prepare_data(changed(recipe, images=str(train), test=str(test)), progress)
    assert sorted(data.split.bank) == list(range(160))
    held_out = np.concatenate([data.split.calibration, data.split.test])
    assert sorted(held_out) == list(range(80))
    assert len(data.split.calibration) == 40  # both shares are 0.15
    assert data.held_out.where == str(test)
    labels = data.held_out.labels(data.split.test)
    assert labels is not None
    for index, label in zip(data.split.test, labels, strict=True):
        assert data.held_out.names[index].startswith(data.familiar.classes[label] + "/")
    arrays = data.held_out_pixels(EIGHT, progress)
    first = data.held_out.image(int(data.split.calibration[0]))
    assert np.array_equal(arrays["familiar"][0], EIGHT.pixels(first))


def test_images_that_are_each_a_class_are_refused_where_the_detector_needs_two(
    recipe: Recipe, flat_digits: Path, tmp_path: Path, progress: Progress
) -> None:
    table = tmp_path / "own.csv"
    paths = sorted(flat_digits.glob("*.png"))
    rows = [f"{path},class {number}" for number, path in enumerate(paths)]
    table.write_text("\n".join(["path,label", *rows]))
    own = changed(recipe, images=str(table))
    assert len(prepare_data(own, progress).bank) == 32  # knn does without classes
    for name in ("mahalanobis", "relative_mahalanobis"):
        wanted = own.model_copy(update={"ood": DetectorSpec(name=name)})
        with pytest.raises(UsageError, match=rf"{name} .* bank of 32 images, each a class"):
            prepare_data(wanted, progress)


def test_folders_whose_names_are_no_unicode_are_classes_all_the_same(
    recipe: Recipe, flat_digits: Path, tmp_path: Path, progress: Progress
) -> None:
    names = ("caf\udce9", "th\u00e9")  # the first is Latin-1 on the disk
    for number, path in enumerate(sorted(flat_digits.glob("*.png"))):
        copy = tmp_path / "images" / names[number % 2] / f"\udcff{number}.png"
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    odd = changed(recipe, images=str(tmp_path / "images"))
    bundle = distill(odd, tmp_path / "odd.isogon", progress)
    assert bundle.manifest.provenance.classes == ("caf\\xe9", "th\u00e9")
    assert "class caf\\xe9" in bundle.file("report.html").read_text(encoding="utf-8")


def test_other_classes_in_the_test_images_are_refused(
    recipe: Recipe, digits: Path, tmp_path: Path, progress: Progress
) -> None:
    test = Path(shutil.copytree(digits, tmp_path / "test"))
    (test / "9").rename(test / "nine")
    with pytest.raises(UsageError, match=r"share 240 images.*would use training images"):
        prepare_data(changed(recipe, test=str(digits / "..") + f"/{digits.name}"), progress)
    with pytest.raises(UsageError, match=r"share .*would use training images"):
        prepare_data(changed(recipe, test=str(digits / "3")), progress)
    with pytest.raises(UsageError, match=r"same classes.* only one of them has 9, nine\."):
        prepare_data(changed(recipe, test=str(test)), progress)


def test_too_few_held_out_images_are_refused(
    recipe: Recipe, digits: Path, photographs: Path, tmp_path: Path, progress: Progress
) -> None:
    with pytest.raises(UsageError, match=r"photographs.* 12 readable.* 19 for calib"):
        prepare_data(changed(recipe, test=str(photographs)), progress)
    shutil.copy(photographs / "brick.jpg", tmp_path)
    with pytest.raises(UsageError, match="1 readable image; expected at least 10"):
        prepare_data(changed(recipe, images=str(tmp_path), test=str(digits)), progress)


def test_the_images_kept_of_unfamiliar_sets_come_from_each(
    recipe: Recipe, photographs: Path, tmp_path: Path, progress: Progress
) -> None:
    halves = {"left": tmp_path / "left", "right": tmp_path / "right"}
    for name, folder in halves.items():
        folder.mkdir()
        for path in photographs.glob("*.jpg"):
            image = Image.open(path)
            side = (0, 0, image.width // 2, image.height)
            turned = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            (image if name == "left" else turned).crop(side).save(folder / path.name)
    sets = [
        {"name": "left", "images": str(halves["left"])},
        {"name": "right", "images": str(halves["right"]), "kind": "near"},
    ]
    data = prepare_data(changed(recipe, unfamiliar=sets), progress)
    assert {name: each.kind for name, each in data.unfamiliar.items()} == {
        "left": "far",
        "right": "near",
    }
    kept = data.held_out_pixels(EIGHT, progress)["unfamiliar"]
    assert len(kept) == 12 + 12
    last = data.unfamiliar["right"].images.image(11)
    assert np.array_equal(kept[-1], EIGHT.pixels(last))


def test_thumbnails_are_of_every_class_with_their_own_embeddings(
    recipe: Recipe, progress: Progress
) -> None:
    data = prepare_data(changed(recipe), progress)
    vectors = np.eye(len(data.bank), dtype=np.float32)  # each says which image it is of
    found = data.thumbnails(vectors, 20, EIGHT, progress)
    labels = data.familiar.labels(data.bank)
    assert found.labels is not None
    assert labels is not None
    assert len(found) == 20
    assert set(found.labels) == set(data.familiar.classes)
    places = found.embeddings.argmax(axis=1)
    assert [data.familiar.classes[labels[place]] for place in places] == list(found.labels)
    image = np.asarray(Image.open(io.BytesIO(found.images[3])))
    shown = EIGHT.pixels(data.familiar.image(int(data.bank[places[3]])))
    assert np.abs(image.astype(int) - shown).mean() < 8  # JPEG's error


@pytest.mark.slow
def test_a_run_on_a_tar_names_what_it_left_out_in_the_bundle(
    recipe: Recipe, digits: Path, photographs: Path, tmp_path: Path, progress: Progress
) -> None:
    (tmp_path / "broken.png").write_bytes(b"broken")
    (tmp_path / "list.csv").write_text(
        "path\n" + "\n".join(str(path) for path in sorted(photographs.glob("*.jpg")))
    )
    with tarfile.open(tmp_path / "digits.tar", "w") as archive:
        archive.add(digits, "digits")
        archive.add(tmp_path / "broken.png", "digits/3/broken.png")
    images = str(tmp_path / "digits.tar")
    sets = [{"name": "photographs", "images": str(tmp_path / "list.csv")}]
    output = tmp_path / "tar.isogon"
    changes = changed(recipe, images=images, unfamiliar=sets, thumbnails=0)
    bundle = distill(changes, output, progress)
    assert "thumbnails.safetensors" not in bundle  # as it was asked
    left_out = json.loads(bundle.file("unreadable.json").read_bytes())
    assert list(left_out) == ["./digits.tar"]  # as seen from where the bundle is
    assert list(left_out["./digits.tar"]) == ["digits/3/broken.png"]
    assert "is not an image" in left_out["./digits.tar"]["digits/3/broken.png"]
    for path in filter(Path.is_file, output.rglob("*")):
        for told in (str(tmp_path), str(photographs)):  # the list names them by path
            assert told.encode() not in path.read_bytes(), f"{path} tells of {told}"
    assert bundle.manifest.provenance.classes == tuple("0123456789")


def test_nothing_left_out_is_no_file_and_none_allowed_stops_the_run(
    recipe: Recipe, exported: Path, digits: Path, tmp_path: Path, progress: Progress
) -> None:
    assert "unreadable.json" not in Bundle.open(exported).manifest.files
    folder = Path(shutil.copytree(digits, tmp_path / "digits"))
    (folder / "3" / "broken.png").write_bytes(b"broken")
    strict = changed(recipe, images=str(folder), unreadable_limit=0.0)
    with pytest.raises(
        UsageError, match=r"1 of 241 images cannot be read(.|\n)*broken\.png"
    ):
        prepare_data(strict, progress)

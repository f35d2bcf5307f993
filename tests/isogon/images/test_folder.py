import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.progress import Progress

from isogon.errors import UsageError
from isogon.images import ImageFolder, Shares, split


def test_subfolders_are_classes_and_a_flat_folder_has_none(
    digits: Path, photographs: Path
) -> None:
    by_class = ImageFolder.list(digits)
    assert by_class.classes == tuple("0123456789")
    labels = by_class.labels(np.arange(len(by_class)))
    assert labels is not None
    assert by_class.names[5].startswith(by_class.classes[labels[5]] + "/")
    assert ImageFolder.list(photographs).labels(np.arange(3)) is None


def test_hidden_files_and_folders_are_passed_over(tmp_path: Path) -> None:
    for name in ("a.png", ".b.png", ".ipynb_checkpoints/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    assert ImageFolder.list(tmp_path).names == ("a.png",)


def test_links_are_followed_but_not_in_circles(tmp_path: Path, progress: Progress) -> None:
    images, elsewhere = tmp_path / "images", tmp_path / "elsewhere"
    images.mkdir()
    elsewhere.mkdir()
    for path in (images / "a.png", elsewhere / "b.png", elsewhere / "c.png"):
        Image.new("RGB", (4, 4)).save(path)
    (images / "cats").symlink_to(elsewhere)
    (images / "up").symlink_to(images)
    (elsewhere / "itself").symlink_to(".")
    (images / "d.png").symlink_to(images / "a.png")
    (images / "lost.png").symlink_to(images / "nowhere.png")
    os.mkfifo(images / "pipe.png")
    folder = ImageFolder.list(images)
    assert folder.names == ("a.png", "cats/b.png", "cats/c.png", "d.png", "lost.png")
    for _ in range(2):  # the second time from what is remembered
        assert set(folder.examined(progress, tmp_path / "cache").faults) == {"lost.png"}


def test_a_folder_without_images_says_what_it_expected(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(UsageError, match=r"has no images; expected .*notes\.txt"):
        ImageFolder.list(tmp_path)
    (tmp_path / "train-0.parquet").write_bytes(b"PAR1")
    with pytest.raises(UsageError, match=r"train-0\.parquet, write .*/\*\.parquet"):
        ImageFolder.list(tmp_path)
    with pytest.raises(UsageError, match="found a file"):
        ImageFolder.list(tmp_path / "notes.txt")
    with pytest.raises(UsageError, match="found nothing"):
        ImageFolder.list(tmp_path / "nowhere")


def test_a_few_unreadable_images_are_named_and_left_out(
    tmp_path: Path, progress: Progress, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(20):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number:02}.png")
    (tmp_path / "07.png").write_bytes(b"broken")
    folder = ImageFolder.list(tmp_path)
    usable = folder.readable(progress)
    assert [folder.names[i] for i in set(range(20)) - set(usable)] == ["07.png"]
    assert "1 of 20 images cannot be read" in capsys.readouterr().out


def test_many_unreadable_images_stop_the_run(tmp_path: Path, progress: Progress) -> None:
    for number in range(5):
        (tmp_path / f"{number}.jpg").write_bytes(b"broken")
    with pytest.raises(UsageError, match=r"5 of 5 images cannot be read(.|\n)*0\.jpg"):
        ImageFolder.list(tmp_path).readable(progress)


def test_all_faults_are_returned_and_ten_are_shown(
    tmp_path: Path, progress: Progress, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(12):
        (tmp_path / f"{number:02}.jpg").write_bytes(b"broken")
    Image.new("RGB", (8, 8)).save(tmp_path / "12.png")
    folder = ImageFolder.list(tmp_path)
    faults = folder.examined(progress).faults
    assert set(faults) == {f"{number:02}.jpg" for number in range(12)}
    usable = folder.readable(progress, limit=0.95, faults=faults)
    assert usable.tolist() == [12]
    shown = capsys.readouterr().out
    assert "09.jpg" in shown
    assert "10.jpg" not in shown
    assert "and 2 more" in shown


def test_images_are_read_again_only_when_a_file_changes(
    tmp_path: Path, progress: Progress
) -> None:
    images, cache = tmp_path / "images", tmp_path / "cache"
    images.mkdir()
    for number in range(3):
        Image.new("RGB", (8, 8)).save(images / f"{number}.png")
    (images / "1.png").write_bytes(b"broken")
    before = ImageFolder.list(images).examined(progress, cache).faults
    assert set(before) == {"1.png"}
    (record,) = cache.glob("*.json")
    record.write_text(record.read_text().replace("is not an image", "was remembered"))
    again = ImageFolder.list(images).examined(progress, cache).faults
    assert "was remembered" in again["1.png"]  # nothing was decoded
    assert "is not an image" in ImageFolder.list(images).examined(progress).faults["1.png"]
    Image.new("RGB", (8, 8)).save(images / "1.png")
    assert ImageFolder.list(images).examined(progress, cache).faults == {}
    (images / "2.png").write_bytes(b"broken")
    assert set(ImageFolder.list(images).examined(progress, cache).faults) == {"2.png"}
    record.write_text("{")  # a damaged record is as good as none
    assert set(ImageFolder.list(images).examined(progress, cache).faults) == {"2.png"}


def test_roles_do_not_overlap_and_do_not_depend_on_the_listing(digits: Path) -> None:
    folder = ImageFolder.list(digits)
    everything = np.arange(len(folder))
    roles = split(folder, everything, Shares(), alpha=0.05)
    joined = np.concatenate([roles.bank, roles.calibration, roles.test])
    assert sorted(joined) == everything.tolist()
    again = split(folder, everything[::-1], Shares(), alpha=0.05)
    assert np.array_equal(roles.calibration, again.calibration)


def test_calibration_gets_what_alpha_needs(digits: Path) -> None:
    folder = ImageFolder.list(digits)
    roles = split(folder, np.arange(60), Shares(), alpha=0.05)
    assert len(roles.calibration) == 19
    # Neither `isogon quickstart` nor `isogon evaluate` has an option for alpha.
    with pytest.raises(UsageError, match=r"needs 99 for calibration.*\[ood\] of a recipe"):
        split(folder, np.arange(60), Shares(), alpha=0.01)

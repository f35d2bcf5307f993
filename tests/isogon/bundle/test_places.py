"""Paths in a bundle hold no user's folders, and are found relative to the bundle."""

from pathlib import Path

import pytest

from isogon.bundle.names import found_place, portable_place


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/data/ann/project/photos", "./photos"),
        ("/data/ann/photos", "../photos"),
        ("/data/ann/shards/{00..09}.tar", "../shards/{00..09}.tar"),
        ("wds//data/ann/shards/*.tar", "wds/../shards/*.tar"),
        ("hfds//data/ann/set:train[:50%]", "hfds/../set:train[:50%]"),
        ("local-dir:/data/ann/model", "local-dir:../model"),
        ("/home/ann/photos", "~/photos"),
        ("wds//home/ann/a.tar", "wds/~/a.tar"),
        ("photos", "photos"),
        ("../photos", "../photos"),
        ("~/photos", "~/photos"),
        ("hfds/cifar10:train", "hfds/cifar10:train"),
        ("package:efficientnet", "package:efficientnet"),
        ("own.networks:factory", "own.networks:factory"),
    ],
)
def test_absolute_places_are_stored_relative_to_the_bundles_folder(
    text: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    assert portable_place(text, Path("/data/ann/project")) == told


def test_below_one_home_both_move_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    assert portable_place("/home/ann/photos", Path("/home/ann/work")) == "../photos"


def test_places_are_found_from_the_current_folder_or_from_the_bundles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundles, elsewhere = tmp_path / "bundles", tmp_path / "a" / "b"
    for folder in (bundles, elsewhere, tmp_path / "photos", bundles / "digits"):
        folder.mkdir(parents=True)
    monkeypatch.chdir(elsewhere)
    for text in ("../photos", "./digits", "../photos/{1..3}.tar", "wds/../photos/*.tar"):
        found = found_place(text, bundles)
        assert found == text.replace("../", f"{bundles}/../").replace("./d", f"{bundles}/d")
    monkeypatch.chdir(bundles)
    for text in (
        "../photos",
        "./digits",
        "../photos/*.tar",
        "digits",
        "/data",
        "~/x",
        "knn",
    ):
        assert found_place(text, bundles) == text

import csv
import importlib.util
import io
import pickle
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.progress import Progress
from timm.data.readers import create_reader

from distill.images.listing import open_source
from distill.images.loading import plain_crops
from isogon.errors import UsageError
from isogon.images import ImageFolder, Images, Preprocessing, decode
from isogon.images.opening import _without_braces

EIGHT = Preprocessing(height=8, width=8, mean=(0.5,) * 3, std=(0.5,) * 3)


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            add(archive, name, data)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    paths = sorted(folder.rglob("*.png"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def write_csv(path: Path, rows: list[dict[str, str]], delimiter: str = ",") -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def tar(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tar") / "digits.tar"
    return write_tar(path, contents(digits))


@pytest.fixture(scope="module")
def parquet(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits as Hugging Face writes them, in row groups of 50."""
    files = contents(digits)
    table = pa.table(
        {
            "image": [{"bytes": data, "path": None} for data in files.values()],
            "label": [int(name[0]) for name in files],
        }
    )
    path = tmp_path_factory.mktemp("parquet") / "digits.parquet"
    pq.write_table(table, path, row_group_size=50)
    return path


def equal(images: Images, folder: ImageFolder, progress: Progress) -> bool:
    """Say whether both hold the same pixels and classes, image by image."""
    everything = np.arange(len(folder))
    labels = images.labels(everything)
    assert labels is not None
    return (
        images.classes == folder.classes
        and np.array_equal(labels, folder.labels(everything))
        and np.array_equal(
            images.pixels(everything, EIGHT, progress),
            folder.pixels(everything, EIGHT, progress),
        )
    )


def test_a_tar_holds_what_the_folder_held(
    digits: Path, tar: Path, progress: Progress
) -> None:
    images, folder = open_source(str(tar)), open_source(str(digits))
    assert isinstance(folder, ImageFolder)
    assert images.names == folder.names
    assert equal(images, folder, progress)


@pytest.mark.parametrize("nested", [False, True])
def test_a_tar_is_read_as_timm_reads_it(
    digits: Path, tar: Path, tmp_path: Path, nested: bool
) -> None:
    path = tar
    if nested:  # as ImageNet comes: one tar by class, inside a tar
        inner = {}
        for folder in digits.iterdir():
            write_tar(tmp_path / "inner.tar", contents(folder))
            inner[f"{folder.name}.tar"] = (tmp_path / "inner.tar").read_bytes()
        path = write_tar(tmp_path / "outer.tar", inner)
    ours, theirs = open_source(str(path)), create_reader("", root=str(path))
    assert len(ours) == len(theirs) == 240
    assert ours.classes == tuple(sorted(theirs.class_name_to_idx))
    read = {}
    for file, number in (theirs[index] for index in range(240)):
        read[file.read()] = theirs.class_idx_to_name[number]
    for state in (theirs.tar_state, *theirs.tar_state.children.values()):
        state.tf.close()
    labels = ours.labels(np.arange(240))
    assert labels is not None
    for index, label in enumerate(labels):
        data = (digits / ours.names[index]).read_bytes()
        assert read[data] == ours.classes[label]
        assert np.array_equal(ours.image(index), decode(data))


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_worker_processes_read_the_same_pixels(
    kind: str, request: pytest.FixtureRequest
) -> None:
    images = open_source(str(request.getfixturevalue(kind)))
    images.image(0)  # what is open in this process must not trouble its children
    order = np.random.default_rng(0).permutation(240)
    alone = list(plain_crops(images, order, EIGHT, batch_size=16))
    shared = list(plain_crops(images, order, EIGHT, batch_size=16, workers=2))
    assert all(np.array_equal(a, b) for a, b in zip(alone, shared, strict=True))
    copy = pickle.loads(pickle.dumps(images))
    assert np.array_equal(copy.image(100), images.image(100))


def test_shards_of_webdataset_take_their_classes_from_cls_files(
    digits: Path, tmp_path: Path, progress: Progress
) -> None:
    files = list(contents(digits).items())
    for shard in range(3):
        members = {}
        for number, (name, data) in enumerate(files[80 * shard : 80 * (shard + 1)]):
            members[f"{number:04}.png"] = data
            members[f"{number:04}.mask.png"] = b"not a picture of its own"
            members[f"{number:04}.cls"] = name[0].encode() + b"\n"
        write_tar(tmp_path / f"shard-{shard:02}.tar", members)
    folder = ImageFolder.list(digits)
    for pattern in ("shard-{00..02}.tar", "shard-*.tar"):
        images = open_source(f"wds/{tmp_path / pattern}")
        assert images.names[80] == "shard-01/0000.png"
        assert equal(images, folder, progress)
    write_tar(tmp_path / "shard-03.tar", {"more.png": files[0][1]})
    with pytest.raises(
        UsageError, match=r"`cls` for some images, but not for 1 of .* more\.png"
    ):
        open_source(str(tmp_path / "shard-{00..03}.tar"))


@pytest.mark.parametrize(
    ("pattern", "expanded"),
    [
        ("a-{08..11}.tar", ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]),
        ("{a,b}/{1..2}.tar", ["a/1.tar", "a/2.tar", "b/1.tar", "b/2.tar"]),
        ("a{b}.tar", ["a{b}.tar"]),
    ],
)
def test_braces_are_expanded_as_a_shell_does(pattern: str, expanded: list[str]) -> None:
    assert _without_braces(pattern) == expanded


def test_hidden_members_and_other_files_are_no_images(tmp_path: Path) -> None:
    files = {"./a.png": b"1", "._a.png": b"2", ".x/b.png": b"3", "notes.txt": b"4"}
    assert open_source(str(write_tar(tmp_path / "a.tar", files))).names == ("a.png",)
    empty = write_tar(tmp_path / "b.tar", {"notes.txt": b"4"})
    with pytest.raises(UsageError, match=r"b\.tar has no images; .*not images: 1 \(notes"):
        open_source(str(empty))


def test_one_name_twice_is_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"a.png": b"1", "b.png": b"2"})
    with tarfile.open(path, "a") as archive:
        add(archive, "a.png", b"3")
    with pytest.raises(UsageError, match=r"names 1 images more than once: a\.png"):
        open_source(str(path))


def damaged_header(data: bytes) -> bytes:
    second = data.index(b"0/010.png")
    return data[:second] + b"\xff" * 300 + data[second + 300 :]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (damaged_header, "damaged at byte"),
        (lambda data: data[:150_000], "damaged at byte"),  # in a header
        (lambda data: data[:150_200], "unexpected end of data"),
        (lambda data: b"", "empty"),
        (lambda data: b"\x1f\x8b" + data, "not an intact, uncompressed tar"),
    ],
)
def test_a_damaged_tar_is_refused_and_not_read_in_part(
    tar: Path, tmp_path: Path, damage: Callable[[bytes], bytes], says: str
) -> None:
    path = tmp_path / "damaged.tar"
    path.write_bytes(damage(tar.read_bytes()))
    with pytest.raises(UsageError, match=says):
        open_source(str(path))


def test_an_archive_that_goes_away_is_named_with_the_image(
    tar: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copy(tar, tmp_path / "gone.tar"))
    images = open_source(str(path))
    path.unlink()
    with pytest.raises(
        UsageError, match=r"gone\.tar: 0/000\.png cannot be read: .*No such"
    ):
        images.image(0)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
@pytest.mark.parametrize("absolute", [False, True])
def test_a_list_names_paths_and_labels(
    digits: Path, tmp_path: Path, progress: Progress, suffix: str, absolute: bool
) -> None:
    shutil.copytree(digits, tmp_path / "images")
    folder = ImageFolder.list(tmp_path / "images")
    before = f"{folder.root}/" if absolute else "./images/"
    rows = [{"path": before + name, "label": name[0]} for name in folder.names]
    path = tmp_path / f"list{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        write_csv(path, rows, "\t" if suffix == ".tsv" else ",")
    images = open_source(str(path))
    assert equal(images, folder, progress)
    assert images.names[0] == (before if absolute else "images/") + "0/000.png"


def test_a_text_file_names_a_path_on_every_line(digits: Path, tmp_path: Path) -> None:
    paths = sorted(digits.rglob("*.png"))[:3]
    odd = Path(shutil.copy(paths[0], tmp_path / "# a,\x0b\u2028b.png"))
    listed = "\n".join([*map(str, paths), "", odd.name])
    path = tmp_path / "list.txt"
    path.write_bytes(b"\xef\xbb\xbf" + listed.replace("\n", "\r\n").encode())
    images = open_source(str(path))
    assert images.names == (*map(str, paths), odd.name)
    assert images.classes == ()
    assert np.array_equal(images.image(3), images.image(0))
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="Expected a path on every line"):
        open_source(str(path))


def test_labels_are_optional_but_not_for_some_images_only(
    digits: Path, tmp_path: Path
) -> None:
    rows = [{"path": str(path)} for path in sorted(digits.rglob("*.png"))[:3]]
    assert open_source(str(write_csv(tmp_path / "a.csv", rows))).classes == ()
    labelled = [{**row, "label": ""} for row in rows]
    assert open_source(str(write_csv(tmp_path / "b.csv", labelled))).classes == ()
    labelled[1]["label"] = "zero"
    with pytest.raises(UsageError, match="1 of its 3 images, but not to image 1, 3"):
        open_source(str(write_csv(tmp_path / "c.csv", labelled)))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("place,label\nhere,1\n", "no column of paths, such as `path`, only place, lab"),
        ("path\n", "lists no images"),
        ("", "no column of paths, such as `path`, only none"),
        ("path,label\na.png,1,2\n", "line 2: expected 2 fields"),
        ("path,label\n,1\n", "image 1 has no path in `path`"),
        ("path\na.png\n./a.png\n", r"1 images more than once: a\.png"),
        ("path\n\xff\n", "cannot be read as a list"),
    ],
)
def test_a_list_that_does_not_do_says_why(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=says):
        open_source(str(path))


def test_listed_files_that_are_missing_are_counted_and_named(
    digits: Path, tmp_path: Path, progress: Progress, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"path": str(path)} for path in sorted(digits.rglob("*.png"))[:20]]
    rows[7]["path"] = "nowhere.png"
    images = open_source(str(write_csv(tmp_path / "list.csv", rows)))
    assert 7 not in images.readable(progress)
    assert "1 of 20 images cannot be read" in capsys.readouterr().out
    with pytest.raises(UsageError, match=r"nowhere\.png cannot be read: .*No such file"):
        images.readable(progress, limit=0.04)


def test_parquet_holds_the_encoded_images(
    digits: Path, parquet: Path, tmp_path: Path, progress: Progress
) -> None:
    folder = ImageFolder.list(digits)
    images = open_source(str(parquet))
    assert images.names[17] == "17"
    assert equal(images, folder, progress)
    table = pq.read_table(parquet)
    for part in range(3):  # plain bytes, names, several files
        rows = table.slice(80 * part, 80)
        names = pa.array(folder.names[80 * part : 80 * (part + 1)])
        plain = rows.set_column(0, "image", rows["image"].combine_chunks().field("bytes"))
        file = tmp_path / f"part-{part}.parquet"
        pq.write_table(plain.append_column("path", names), file, row_group_size=30)
    several = open_source(str(tmp_path / "part-{0..2}.parquet"))
    assert several.names[80] == f"part-1/{folder.names[80]}"
    assert equal(several, folder, progress)


def test_parquet_that_does_not_do_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(columns: dict[str, list[object]]) -> Images:
        pq.write_table(pa.table(columns), tmp_path / "a.parquet")
        return open_source(str(tmp_path / "a.parquet"))

    with pytest.raises(UsageError, match=r"has the columns label.*`path`"):
        opened({"label": [1]})
    with pytest.raises(UsageError, match="`image` is of type int64"):
        opened({"image": [1]})
    with pytest.raises(UsageError, match="has no images"):
        opened({"image": pa.array([], pa.binary())})
    with pytest.raises(UsageError, match=r"a\.parquet: 1 has no bytes"):
        opened({"image": [b"x", None]}).image(1)
    with pytest.raises(UsageError, match=r"a\.parquet: 0 is not an image"):
        opened({"image": [b"x", None]}).image(0)
    monkeypatch.setattr("isogon.images.parquet._LARGEST_GROUP", 10)
    with pytest.raises(UsageError, match=r"Row group 0 of .*row_group_size=100"):
        opened({"image": [b"x" * 100]})
    (tmp_path / "a.parquet").write_bytes(b"no parquet")
    with pytest.raises(UsageError, match=r"a\.parquet cannot be read as Parquet"):
        open_source(str(tmp_path / "a.parquet"))


@pytest.mark.skipif(
    importlib.util.find_spec("datasets") is not None, reason="`datasets` is installed"
)
def test_a_missing_package_is_named_with_the_way_to_install_it() -> None:
    with pytest.raises(UsageError, match="`pip install datasets`"):
        open_source("hfds/ylecun/mnist:test")


def test_the_error_of_a_wrong_source_names_the_right_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"read in order only.* tar archives first"):
        open_source("tfds/mnist")
    with pytest.raises(
        UsageError, match=r"nowhere, found nothing\. Write a folder; a \.tar"
    ):
        open_source(str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match=r"shard-2\.tar, found nothing"):
        write_tar(tmp_path / "shard-1.tar", {})
        open_source(str(tmp_path / "shard-{1..2}.tar"))
    for name, says in (
        ("a.tar.gz", "is compressed"),
        ("a.zzz", "is not a source of images"),
    ):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(UsageError, match=says):
            open_source(str(tmp_path / name))


def test_slices_of_a_hugging_face_split_name_their_rows(
    parquet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("datasets")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits" / "data").mkdir(parents=True)
    for split in ("train", "test"):
        shutil.copy(parquet, tmp_path / "digits" / "data" / f"{split}-0.parquet")
    first, second = (open_source(f"hfds/digits:train[{part}]") for part in (":50%", "50%:"))
    assert first.names == tuple(map(str, range(120)))
    assert second.names == tuple(map(str, range(120, 240)))
    both = open_source("hfds/digits:train[:2]+test[5:6]")
    assert both.names == ("train/0", "train/1", "test/5")

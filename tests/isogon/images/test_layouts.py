"""Common layouts of data sets: which files are images, and which classes they have."""

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from isogon.errors import UsageError
from isogon.images import ClassChoice, ImageFolder, Images, open_images


def encoded(kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, kind)
    return file.getvalue()


IMAGE = encoded()
LISTED = [f"{label}/{number}.png" for label in "ab" for number in range(3)]


def write(root: Path, files: Sequence[str], content: bytes = IMAGE) -> Path:
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def labels(images: Images) -> list[str]:
    return [images.classes[number] for number in images.class_numbers]


def test_a_folder_off_a_phone_gives_its_images_and_counts_the_rest(tmp_path: Path) -> None:
    write(
        tmp_path,
        ["IMG_1.JPG", "IMG_2.JPG", "b/without-suffix", "b/IMG_3.dat"],
        encoded("JPEG"),
    )
    write(tmp_path, ["broken.png"], b"no image, and to be told so when it is read")
    write(tmp_path, [".DS_Store", "._IMG_1.JPG", ".thumbnails/x.jpg"])
    others = ["IMG_1.MOV", "IMG_1.AAE", "Thumbs.db", "notes.txt", "b/empty"]
    write(tmp_path, others, b"")
    images = ImageFolder.list(tmp_path)
    assert set(images.names) == {
        "IMG_1.JPG", "IMG_2.JPG", "b/IMG_3.dat", "b/without-suffix", "broken.png"
    }  # fmt: skip
    hidden, no_images = images.passed_over
    assert (hidden.count, no_images.count) == (3, 5)
    assert hidden.examples == (".DS_Store", "._IMG_1.JPG", ".thumbnails")
    assert images.description.endswith(
        "Skipped: hidden: 3 (.DS_Store, ._IMG_1.JPG, .thumbnails); "
        "not images: 5 (IMG_1.AAE, IMG_1.MOV, Thumbs.db, …)."
    )


def test_a_tar_is_sorted_by_content_as_a_folder_is(tmp_path: Path) -> None:
    files = {
        "a/x": IMAGE,
        "a/y.PNG": IMAGE,
        "b/z.dat": IMAGE,
        "b/t.txt": b"",
        "b/._z": IMAGE,
    }
    inner = write_tar(tmp_path / "inner.tar", {"c": IMAGE, "d.mov": b"0"}).read_bytes()
    images = open_images(str(write_tar(tmp_path / "a.tar", files | {"e.tar": inner})))
    assert images.names == ("a/x", "a/y.PNG", "b/z.dat", "e/c")
    assert images.image(3).size == (4, 4)
    assert "not images: 2 (b/t.txt, e/d.mov); hidden: 1 (b/._z)" in images.description


NUMBERS = range(6)


@pytest.mark.parametrize(
    ("names", "classes", "said"),
    [
        ([f"{c}/images/{n}.png" for c in "ab" for n in NUMBERS], "ab", "at level 1"),
        ([f"{s}/{c}/{n}.png" for s in ("train", "val") for c in "ab" for n in NUMBERS],
         "ab", "at level 2"),
        ([f"train/{c}/images/{c}_{n}.png" for c in "ab" for n in NUMBERS], "ab", "at level 2"),
        ([f"{c}/{sub}{n}.png" for c in "ab" for sub in ("sub/", "") for n in NUMBERS],
         "ab", "at level 1"),
        ([f"{c}/{c}{n}/{view}.png" for c in "ab" for n in NUMBERS for view in "01"],
         "ab", "at level 1; 12 would be from the folders at level 2"),
        ([f"data/{s}/{c}/{n}.png" for s in ("train", "val") for c in "ab" for n in NUMBERS],
         "ab", "at level 3"),
        ([f"{c}/seq{m}/{n}.png" for c in "ab" for m in "12" for n in NUMBERS],
         "ab", "at level 1; 2 would be from the folders at level 2"),
        ([f"{c}/{c}_{m}/{n}.png" for c in "ab" for m in "12" for n in NUMBERS],
         "ab", "at level 1; 4 would be from the folders at level 2"),
        ([f"Video_{m}/{c}/{n}.png" for c in "ab" for m in "12" for n in NUMBERS],
         "ab", "at level 2; 2 would be from the folders at level 1"),
        ([f"{s}_images/{n}.png" for s in ("train", "test") for n in NUMBERS],
         "", "no classes"),
        ([f"{s}2017/{c}/{n}.png" for s in ("train", "val") for c in "ab" for n in NUMBERS],
         "ab", "at level 2"),
        ([f"Photos from {y}/{n}.png" for y in (2023, 2024) for n in NUMBERS],
         "", "the folders are dates"),
        ([f"{y}/{m}/{n}.png" for y in (2023, 2024) for m in ("2024-05", "2024-06-01")
          for n in NUMBERS], "", "the folders are dates"),
        ([f"{c}/2024-0{m}/{n}.png" for c in "ab" for m in (1, 2) for n in NUMBERS],
         "ab", "at level 1"),
        ([f"{n}.png" for n in NUMBERS], "", "no classes: no folder divides the images"),
        ([f"a/{n}.png" for n in NUMBERS], "", "no classes: all images are in the same folder"),
        ([f"{n}/photo.png" for n in NUMBERS], "", "one folder, or one for each image"),
        ([f"a/{n}.png" for n in NUMBERS] + ["b/0.png", "stray.png"],
         "", "1 images, such as stray.png, are in no folder of a class"),
    ],
)  # fmt: skip
def test_folders_are_classes_at_the_level_that_divides_the_images(
    tmp_path: Path, names: list[str], classes: str, said: str
) -> None:
    images = ImageFolder.list(write(tmp_path, names))
    assert images.classes == tuple(classes)
    assert said in images.class_words
    if classes:
        assert labels(images) == [
            next(part for part in Path(name).parts if part in "ab") for name in images.names
        ]
    tar = write_tar(tmp_path / "images.tar", dict.fromkeys(sorted(names), IMAGE))
    assert open_images(str(tar)).class_words == images.class_words


def test_a_level_may_be_chosen(tmp_path: Path) -> None:
    names = [
        f"{domain}/{label}/{n}.png" for domain in "xy" for label in "ab" for n in NUMBERS
    ]
    root = str(write(tmp_path / "images", names))
    for level, classes in ((1, "xy"), (2, "ab"), (-1, "ab"), (-2, "xy"), (0, "")):
        assert open_images(root, choice=ClassChoice(level=level)).classes == tuple(classes)
    with pytest.raises(
        UsageError, match=r"24 of the 24 images .*no folder at `classes = 3`"
    ):
        open_images(root, choice=ClassChoice(level=3))
    with pytest.raises(UsageError, match=r"has no columns, so `label` .* got 'breed'"):
        open_images(root, choice=ClassChoice(column="breed"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "path, label\n{0}.png, {1}\n"),
        ("b.csv", "\ufeffImage Path;Class;Width\n{0}.png;{1};4\n"),
        ("c.csv", '"filename","target"\n"{0}.png","{1}"\n'),
        ("d.tsv", "File\tFine Label\tCoarse Label\n{0}.png\t{1}\t7\n"),
        ("e.csv", "image\tcategory\n{0}.png\t{1}\n"),
        ("g.csv", "ImagePath,classId\n{0}.png,{1}\n"),
        ("h.csv", "relative_path,breed\n{0}.png,{1}\n"),
        ("i.csv", "# Image-Filename,Class (Name)\n{0}.png,{1}\n"),
        ("j.txt", "# path label\n{0}.png {1}\n"),
        ("k.txt", "file, class\n{0}.png, {1}\n"),
        ("l.csv", "sep=;\npath;label\n{0}.png;{1}\n"),
        ("m.csv", "path,label\n{0}.png,{1},\n"),
        ("n.csv", "path,label\n{0}.png,{1}\n,\n"),
        ("o.csv", "# a comment, not a heading\n# of two lines\npath,label\n{0}.png,{1}\n"),
        ("p.csv", "path,label\n\\{0}.PNG,{1}\n"),
        ("q.csv", "path,label\n/home/jane/data/{0}.png,{1}\n"),
        ("r.csv", "path,label\nC:\\Users\\jane\\{0}.png,{1}\n"),
        ("s.csv", "path,label\n../input/data/{0}.png,{1}\n"),
        ("t.txt", '"{0}.png" "{1}"\n'),
        ("u.csv", "Dateiname;Klasse;Breite\n{0}.png;{1};4\n"),
        ("v.csv", "文件名,标签,宽\n{0}.png,{1},4\n"),
        ("w.csv", "local_path,gt_label,label_quality\n{0}.png,{1},0.5\n"),
        ("x.csv", "Image,Id\n{0}.png,{1}\n"),
        ("y.csv", "id,src,Finding Label\n7,{0}.png,{1}\n"),
        ("z.csv", "path,label,species\n{0}.png,1,{1}\n"),
        ("za.csv", "path,labels,species\n{0}.png,,{1}\n"),
        ("f.jsonl", '{{"file_name": "{0}.png", "label": "{1}"}}\n'),
    ],
)
def test_a_list_is_read_whatever_its_columns_are_called(
    tmp_path: Path, name: str, text: str
) -> None:
    write(tmp_path, LISTED)
    heading, row = ("", text) if name.endswith(("jsonl", "t.txt")) else _halves(text)
    rows = [row.format(f"{label}/{n}", label) for label in "ab" for n in range(3)]
    lines = "".join([f"{heading}\n" if heading else "", *rows])
    (tmp_path / name).write_text(lines, encoding="utf-8")
    images = open_images(str(tmp_path / name))
    assert images.names == tuple(LISTED)
    assert labels(images) == [one[0] for one in LISTED]
    # Excel's Unicode text, and what other programs write.
    for encoding in ("utf-16", "utf-16-le", "utf-16-be"):
        (tmp_path / name).write_bytes(lines.lstrip("\ufeff").encode(encoding))
        assert open_images(str(tmp_path / name)).names == tuple(LISTED)


JSON = {
    "records": [{"path": name, "label": name[0], "width": 4} for name in LISTED],
    "columns": {"path": LISTED, "label": [name[0] for name in LISTED]},
    "pandas": {
        "path": dict(enumerate(LISTED)),
        "label": {number: name[0] for number, name in enumerate(LISTED)},
    },
    "map": {name: name[0] for name in LISTED},
    "objects": {name: {"class": name[0], "box": [1, 2]} for name in LISTED},
    "stylegan": {"labels": [[name, name[0]] for name in LISTED]},
    "wrapped": {
        "version": 1,
        "samples": [{"img": n, "gt": {"label": n[0]}} for n in LISTED],
    },
    "coco": {
        "info": {"year": 2026},
        "images": [{"id": n, "file_name": name} for n, name in enumerate(LISTED)],
        "annotations": [
            {"image_id": n, "category_id": 7 + "ab".index(name[0]), "bbox": [box] * 4}
            for n, name in enumerate(LISTED)
            for box in range(2)
        ],
        "categories": [{"id": 7, "name": "a"}, {"id": 8, "name": "b"}],
    },
}


@pytest.mark.parametrize("form", JSON)
def test_json_lists_images_as_common_tools_write_it(tmp_path: Path, form: str) -> None:
    path = write(tmp_path, LISTED) / "images.json"
    path.write_text(json.dumps(JSON[form]))
    images = open_images(str(path))
    assert images.names == tuple(LISTED)
    assert labels(images) == [name[0] for name in LISTED]
    indented = json.dumps(JSON[form], indent=1)
    (tmp_path / "images.jsonl").write_text(indented)
    assert open_images(str(tmp_path / "images.jsonl")).names == tuple(LISTED)


def test_json_of_something_else_is_refused(tmp_path: Path) -> None:
    for text in ("3", "[]", '{"0": "cat", "1": "dog"}', "[[1, 2]]", '{"names": ["a"]}'):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(
            UsageError, match=r"not JSON that lists images|no column of path"
        ):
            open_images(str(tmp_path / "a.json"))


@pytest.mark.parametrize("label", [["a", "b"], {"x": ["a", "b"]}])
def test_several_labels_of_an_image_are_not_one_class(
    tmp_path: Path, label: object
) -> None:
    path = write(tmp_path, LISTED) / "a.jsonl"
    rows = [{"path": LISTED[0], "label": label}]
    rows += [{"path": name, "label": [name[0]]} for name in LISTED[1:]]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with pytest.raises(UsageError, match=r"one class per image|but not to image 1"):
        open_images(str(path))
    assert open_images(str(path), choice=ClassChoice(level=0)).classes == ()
    files = {f"{n}.png": IMAGE for n in range(6)}
    files |= {f"{n}.json": json.dumps(row).encode() for n, row in enumerate(rows)}
    with pytest.raises(UsageError, match=r"one class per image|not for 1 of its 6"):
        open_images(str(write_tar(tmp_path / "a.tar", files)))


def _halves(text: str) -> tuple[str, str]:
    """Return a list's heading and the pattern of its rows."""
    start = text.index("{0}")
    start = text.rindex("\n", 0, start)
    return text[:start], text[start + 1 :]


@pytest.mark.parametrize("between", [" ", "\t", ", ", "   ", ";"])
def test_a_list_of_text_may_have_a_label_behind_each_path(
    tmp_path: Path, between: str
) -> None:
    write(tmp_path, LISTED)
    rows = [f"./{name}{between}class {name[0]}" for name in LISTED]
    path = tmp_path / "train.txt"
    path.write_text("\n".join([*rows, ""]))
    images = open_images(str(path))
    assert images.names == tuple(LISTED)
    assert images.class_words == (
        "2 classes (class a, class b), from the text after the path on each line"
    )
    path.write_text("\n".join([*rows[:-1], LISTED[-1]]))
    with pytest.raises(UsageError, match=r"but not to image 6\. Label all"):
        open_images(str(path))


def test_a_list_of_text_is_read_as_others_write_it(tmp_path: Path) -> None:
    write(tmp_path, LISTED)
    path = tmp_path / "train.txt"
    rows = ["# made by hand", *(f'"{name}" {name[0]}' for name in LISTED[:2])]
    rows += [f"{name[0]} {name}" for name in LISTED[2:4]]
    rows += [f"{name[0]}\\{name[2:]} {name[0]}" for name in LISTED[4:]]
    path.write_text("\r\n".join(rows))
    images = open_images(str(path))
    assert images.names == tuple(LISTED)
    assert labels(images) == [name[0] for name in LISTED]


@pytest.mark.parametrize(
    ("place", "row", "expected"),
    [
        # Tiny ImageNet, ImageNet, CUB-200, Food-101, Oxford pets and VOC.
        ("val_annotations.txt", "{0}.png\t{1}\t0\t{2}\t44\t62", "ab"),
        ("train_cls.txt", "{0} {2}", ""),
        ("images.txt", "{2} {0}.png", ""),
        ("meta/train.txt", "{0}", ""),
        ("annotations/list.txt", "# Image CLASS-ID SPECIES BREED ID\n{0} {1} 1", "ab"),
        ("ImageSets/Main/cat.txt", "{0}  {1}", "ab"),
    ],
)
def test_lists_of_known_data_sets_find_their_images(
    tmp_path: Path, place: str, row: str, expected: str
) -> None:
    write(tmp_path / "images", LISTED)
    path = tmp_path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [row.format(n[:-4], n[0], number + 1) for number, n in enumerate(LISTED)]
    path.write_text("\n".join(lines))
    images = open_images(str(path))
    assert images.names == tuple(f"images/{name}" for name in LISTED)
    assert images.image(5).size == (4, 4)
    found = [label.partition(" ")[0] for label in labels(images)] if images.classes else []
    assert found == ([name[0] for name in LISTED] if expected else [])
    assert "a/0.png" in images.class_words


def test_a_list_of_which_no_file_is_there_is_refused(tmp_path: Path) -> None:
    write(tmp_path, LISTED)
    (tmp_path / "truth.txt").write_text("490\n361\n171\n")
    with pytest.raises(UsageError, match=r"None of the 3 files .* such as 490\. A path is"):
        open_images(str(tmp_path / "truth.txt"))


def test_a_column_that_tells_every_image_apart_is_said_to(tmp_path: Path) -> None:
    rows = "".join(f"{name},L{number}\n" for number, name in enumerate(LISTED))
    (write(tmp_path, LISTED) / "a.csv").write_text(f"path,label\n{rows}")
    said = open_images(str(tmp_path / "a.csv")).class_words
    assert said.endswith("from the column `label`; every image has a class of its own")


def test_the_only_other_column_has_no_classes_if_it_measures(tmp_path: Path) -> None:
    for values in ("0.5 1.5 2.5".split(), ["train", "test", "val"], list("aaa")):
        rows = [f"{name},{values[n % 3]}" for n, name in enumerate(LISTED)]
        (write(tmp_path, LISTED) / "a.csv").write_text("\n".join(["path,x", *rows]))
        said = open_images(str(tmp_path / "a.csv")).class_words
        assert said.startswith("no classes: no column of labels; unused: x")


def test_a_path_with_blanks_is_a_path(tmp_path: Path) -> None:
    names = ["my.jpg copy 2", "my photo 1.png", "a.png b/2.png", "plain"]
    write(tmp_path, names)
    (tmp_path / "list.txt").write_text("\n".join(names))
    images = open_images(str(tmp_path / "list.txt"))
    assert images.names == tuple(names)
    assert images.classes == ()


def test_a_list_says_its_column_of_classes_and_those_that_nothing_uses(
    tmp_path: Path,
) -> None:
    path = write(tmp_path, LISTED) / "list.csv"
    rows = [f"{name},{name[0]},{number % 3}" for number, name in enumerate(LISTED)]
    path.write_text("\n".join(["path,farm,fold", *rows]))
    images = open_images(str(path))
    assert images.classes == ()
    assert "no column of labels; unused: farm, fold; the folders would give 2" in (
        images.class_words
    )
    chosen = open_images(str(path), choice=ClassChoice(column="Farm"))
    assert labels(chosen) == [name[0] for name in LISTED]
    assert chosen.class_words == "2 classes (a, b), from the column `farm`; unused: fold"
    assert open_images(str(path), choice=ClassChoice(level=1)).classes == ("a", "b")
    with pytest.raises(UsageError, match=r"no column 'race', .* only farm, fold"):
        open_images(str(path), choice=ClassChoice(column="race"))


@pytest.mark.parametrize(
    "text",
    ["{0}.png,{1}\n", "{1};{0}.png\n", '"{0}.png","{1}"\n', "file://{2}/{0}.png,{1}\n"],
)
def test_a_table_without_a_heading_is_read_from_its_first_line(
    tmp_path: Path, text: str
) -> None:
    write(tmp_path, LISTED)
    rows = [text.format(name[:-4], name[0], tmp_path) for name in LISTED]
    (tmp_path / "a.csv").write_text("".join(rows))
    images = open_images(str(tmp_path / "a.csv"))
    assert [(images.root / name).is_file() for name in images.names] == [True] * 6
    assert labels(images) == [name[0] for name in LISTED]
    (tmp_path / "b.csv").write_text("".join(f"{name},a,3\n" for name in LISTED))
    with pytest.raises(UsageError, match="no heading, but 3 columns: which is the label"):
        open_images(str(tmp_path / "b.csv"))


def test_files_are_searched_below_a_list_of_ids(tmp_path: Path) -> None:
    """Kaggle's layout: `id,breed` beside a folder `train`."""
    write(tmp_path / "train", LISTED)
    rows = [f"{name[2:-4]}{name[0]},{name[0]}" for name in LISTED]
    for name in LISTED:
        (tmp_path / "train" / name).rename(
            tmp_path / "train" / f"{name[2:-4]}{name[0]}.png"
        )
    path = tmp_path / "labels.csv"
    path.write_text("\n".join(["id,breed", *rows]))
    images = open_images(str(path))
    assert images.names == tuple(f"train/{row.partition(',')[0]}.png" for row in rows)
    assert "0a is train/0a.png" in images.class_words
    path.write_text("\n".join(["id,breed", *rows, "9z,z"]))
    assert open_images(str(path)).names[-1] == "9z"  # told as unreadable
    write(tmp_path / "test", ["0a.jpg"])
    with pytest.raises(UsageError, match=r"0a, which may be .*0a.* or .*0a"):
        open_images(str(path))


def test_a_column_for_each_class_is_a_label(tmp_path: Path) -> None:
    path = write(tmp_path, LISTED) / "list.csv"
    rows = [f"{name},{int(name[0] == 'a')}.0,{int(name[0] == 'b')}" for name in LISTED]
    path.write_text("\n".join(["image,MEL,NV", *rows]))
    images = open_images(str(path))
    assert labels(images) == [{"a": "MEL", "b": "NV"}[name[0]] for name in LISTED]
    assert images.class_words.endswith("from the columns `MEL`, `NV`: one is 1 in a row")
    path.write_text("\n".join(["image,MEL,NV", *rows, "c.png,1,1"]))
    assert open_images(str(path)).classes == ()


@pytest.mark.parametrize("missing", ["", "nan", "NaN", "<NA>", "NULL"])
def test_a_missing_label_is_no_class(tmp_path: Path, missing: str) -> None:
    write(tmp_path, ["a.png"])
    (tmp_path / "a.csv").write_text(f"path,label\na.png,cat\nb.png,{missing}\nc.png,dog\n")
    with pytest.raises(UsageError, match=r"2 of its 3 images, but not to image 2\."):
        open_images(str(tmp_path / "a.csv"))


def test_whole_numbers_are_written_without_a_fraction(tmp_path: Path) -> None:
    write(tmp_path, ["a.png", "b.png"])
    (tmp_path / "a.csv").write_text("path,label\na.png,1.0\nb.png,10.0\n")
    assert open_images(str(tmp_path / "a.csv")).classes == ("1", "10")
    (tmp_path / "a.csv").write_text("path,label\na.png,1.0\nb.png,1.5\n")
    assert open_images(str(tmp_path / "a.csv")).classes == ("1.0", "1.5")


def test_odd_lists_are_refused_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    for text, says in (
        ("path,label,label\na.png,1,2\n", "several columns named label"),
        ("path,label\na.png,é\n", "cannot be read as a list: .*Save it as UTF-8"),
    ):
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(UsageError, match=says):
            open_images(str(path))


def test_files_are_not_searched_by_less_than_distinguishes_them(tmp_path: Path) -> None:
    write(tmp_path, ["a/0.png", "a/1.png"])
    rows = "path,label\n/x/a/0.png,a\n/x/b/1.png,b\n"
    (tmp_path / "a.csv").write_text(rows)
    images = open_images(str(tmp_path / "a.csv"))
    assert images.names == ("a/0.png", "/x/b/1.png")  # the second is told as unreadable


def test_accents_may_be_stored_in_two_ways(tmp_path: Path) -> None:
    write(tmp_path, ["a\u0308/1.png", "\u00f6/2.png"])
    (tmp_path / "a.csv").write_text("path,label\n\u00e4/1.png,x\no\u0308/2.png,y\n")
    images = open_images(str(tmp_path / "a.csv"))
    assert [images.image(number).size for number in range(2)] == [(4, 4)] * 2


def test_what_systems_make_for_themselves_is_passed_over(tmp_path: Path) -> None:
    images = [f"{c}/{n}.png" for c in "ab" for n in range(3)]
    others = ["__MACOSX/a/0.png", "a/@eaDir/0.png/SYNO.jpg", "$RECYCLE.BIN/x.png"]
    others += ["System Volume Information/y.png", "#recycle/z.png", "lost+found/q.png"]
    found = ImageFolder.list(write(tmp_path / "images", [*images, *others]))
    assert (found.names, found.classes) == (tuple(images), ("a", "b"))
    tar = write_tar(tmp_path / "a.tar", dict.fromkeys([*images, *others], IMAGE))
    assert open_images(str(tar)).names == tuple(images)


def test_a_cameras_folders_are_no_classes(tmp_path: Path) -> None:
    for number, names in enumerate(
        (
            [
                "DCIM/100APPLE/1.jpg",
                "DCIM/101APPLE/2.jpg",
                "DCIM/Camera/3.jpg",
                "Pictures/4.jpg",
            ],
            ["100CANON/1.jpg", "100CANON/2.jpg", "101CANON/1.jpg"],
        )
    ):
        images = ImageFolder.list(write(tmp_path / str(number), names))
        assert images.classes == ()
        assert "these are a camera's folders" in images.class_words


def test_a_list_in_a_folder_without_classes_is_named(tmp_path: Path) -> None:
    """`metadata.csv` of Hugging Face's image folders."""
    write(tmp_path, ["1.png", "2.png"])
    (tmp_path / "metadata.csv").write_text("file_name,label\n1.png,a\n2.png,b\n")
    said = ImageFolder.list(tmp_path).class_words
    assert f"write {tmp_path / 'metadata.csv'} in place of the folder" in said
    assert open_images(str(tmp_path / "metadata.csv")).classes == ("a", "b")
    found = list(tmp_path.iterdir())
    (tmp_path / "train").mkdir()
    for path in found:
        path.rename(tmp_path / "train" / path.name)
    said = ImageFolder.list(tmp_path).class_words
    assert f"write {tmp_path / 'train/metadata.csv'} in place of the folder" in said


def test_a_dataset_saved_to_disk_is_told_how_to_be_written(tmp_path: Path) -> None:
    (tmp_path / "data-00000-of-00001.arrow").write_bytes(b"")
    with pytest.raises(UsageError, match=r"load_from_disk\(.*\)\.to_parquet"):
        open_images(str(tmp_path))


def test_an_address_in_a_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("path\nhttps://example.org/a.jpg\n")
    with pytest.raises(UsageError, match="this machine's disk"):
        open_images(str(tmp_path / "a.csv"))


def test_parquet_of_hugging_face_gives_its_fine_labels_by_name(tmp_path: Path) -> None:
    features = {"fine_label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    table = pa.table(
        {
            "img": [{"bytes": IMAGE, "path": None}] * 4,
            "fine_label": [0, 1, 1, 0],
            "coarse_label": [5, 5, 6, 6],
        }
    ).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, tmp_path / "train.parquet")
    images = open_images(str(tmp_path / "train.parquet"))
    assert labels(images) == ["cat", "dog", "dog", "cat"]
    assert images.image(3).size == (4, 4)
    assert images.class_words.endswith("the column `fine_label`; unused: coarse_label")
    coarse = open_images(
        str(tmp_path / "train.parquet"), choice=ClassChoice(column="coarse_label")
    )
    assert labels(coarse) == ["5", "5", "6", "6"]


def test_shards_give_the_labels_of_their_json(tmp_path: Path) -> None:
    files = {}
    for number in range(6):
        about = {"label": number % 2, "caption": "x", "box": [1, 2]}
        files |= {f"{number}.jpg": IMAGE, f"{number}.json": json.dumps(about).encode()}
        files |= {f"{number}.txt": b"a caption"}
    path = str(write_tar(tmp_path / "shard-0.tar", files))
    images = open_images(path)
    assert labels(images) == ["0", "1"] * 3
    assert (
        images.class_words
        == "2 classes (0, 1), from the column `label`; unused: caption, box"
    )
    assert open_images(path, choice=ClassChoice(column="caption")).classes == ()
    with pytest.raises(UsageError, match=r"no column 'fold'.* only label, caption, box"):
        open_images(path, choice=ClassChoice(column="fold"))
    del files["3.json"]
    with pytest.raises(UsageError, match=r"has `label` for some .* 1 of its 6: 3\.jpg"):
        open_images(str(write_tar(tmp_path / "shard-1.tar", files)))


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.dictionary(pa.int8(), pa.string()),
    ],
)
def test_parquet_may_store_texts_in_any_way(tmp_path: Path, kind: pa.DataType) -> None:
    write(tmp_path, LISTED)
    table = pa.table({"path": LISTED, "label": [name[0] for name in LISTED]})
    schema = pa.schema([("path", kind), ("label", kind)])
    pq.write_table(table.cast(schema), tmp_path / "a.parquet")
    images = open_images(str(tmp_path / "a.parquet"))
    assert images.names == tuple(LISTED)
    assert labels(images) == [name[0] for name in LISTED]


@pytest.mark.parametrize("kind", [pa.int64(), pa.bool_(), pa.float32(), pa.uint8()])
@pytest.mark.parametrize("held", [True, False])
def test_parquet_may_have_a_column_for_each_class(
    tmp_path: Path, kind: pa.DataType, held: bool
) -> None:
    write(tmp_path, LISTED)
    second = [name[0] == "b" for name in LISTED]
    columns = {"image": [IMAGE] * 6} if held else {"path": LISTED}
    columns |= {"MEL": pa.array([not b for b in second]), "NV": pa.array(second)}
    table = pa.table(columns)
    for name in ("MEL", "NV"):
        place = table.schema.get_field_index(name)
        cells = table[name].cast(pa.int8()).cast(kind)
        table = table.set_column(place, name, cells)
    pq.write_table(table, tmp_path / "a.parquet")
    images = open_images(str(tmp_path / "a.parquet"))
    assert labels(images) == [{"a": "MEL", "b": "NV"}[name[0]] for name in LISTED]
    assert images.class_words.endswith("from the columns `MEL`, `NV`: one is 1 in a row")


def test_parquet_may_hold_a_path_in_place_of_bytes(tmp_path: Path) -> None:
    write(tmp_path, LISTED)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [{"bytes": None, "path": name} for name in LISTED[:-1]]
    cells.append({"bytes": IMAGE, "path": None})
    pq.write_table(pa.table({"image": pa.array(cells, kind)}), tmp_path / "a.parquet")
    images = open_images(str(tmp_path / "a.parquet"))
    assert [images.image(number).size for number in range(6)] == [(4, 4)] * 6
    pq.write_table(
        pa.table({"image": pa.array([IMAGE]).cast(pa.binary_view())}),
        tmp_path / "b.parquet",
    )
    assert open_images(str(tmp_path / "b.parquet")).image(0).size == (4, 4)


def test_parquet_takes_the_column_whose_classes_have_names(tmp_path: Path) -> None:
    features = {"animal": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    table = pa.table({"image": [IMAGE] * 2, "animal": [0, 1], "number": [3, 4]})
    table = table.replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    assert labels(open_images(str(tmp_path / "a.parquet"))) == ["cat", "dog"]


@pytest.mark.parametrize("label", [None, float("nan"), {"name": "a"}, ["a", "b"]])
def test_parquet_without_one_class_for_each_image_is_refused(
    tmp_path: Path, label: object
) -> None:
    other = {float: 1.0, dict: {"name": "b"}, list: ["b"]}.get(type(label), "b")
    cells = pa.array([label, other], from_pandas=False)
    pq.write_table(pa.table({"image": [IMAGE] * 2, "label": cells}), tmp_path / "a.parquet")
    with pytest.raises(UsageError, match=r"but not to image 1\.|one class per image"):
        open_images(str(tmp_path / "a.parquet"))


@pytest.mark.parametrize(
    ("label", "content"),
    [
        ("cls", b"%d"),
        ("CLS", b"%d\n"),
        ("class.cls", b"%d"),
        ("JSON", b'{"label": %d}'),
        ("json", b'{"label": [%d]}'),
        ("json", b'{"width": 4, "annotation": {"label": %d, "box": [1, 2]}}'),
        ("cls", None),  # eight bytes
    ],
)
@pytest.mark.parametrize("image", ["{}.png", "{}.PNG", "{}.image.png", "{}.rgb.jpg"])
def test_shards_give_labels_however_they_are_written(
    tmp_path: Path, image: str, label: str, content: bytes | None
) -> None:
    files = {}
    for number in range(4):
        key = f"{number:06}"
        stated = (number % 2).to_bytes(8, "little") if content is None else None
        files[f"{key}.depth.png"] = IMAGE
        files[image.format(key)] = IMAGE
        files[f"{key}.{label}"] = stated or content % (number % 2)
    images = open_images(str(write_tar(tmp_path / "shard-0.tar", files)))
    assert images.names == tuple(image.format(f"{number:06}") for number in range(4))
    assert labels(images) == ["0", "1"] * 2
    assert "further images of a sample: 4" in images.description

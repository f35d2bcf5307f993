from pathlib import Path

import pytest

from distill import Recipe, recipe_from_document, recipe_from_toml
from distill.recipe import renamed_in
from distill.recipe.keys import keys_page
from distill.recipe.writing import portable
from isogon.errors import UsageError

SMALL = {
    "teacher": {"name": "test_vit"},
    "student": {"name": "test_resnet"},
    "data": {"images": "images"},
}


def test_defaults_are_isogon_and_mahalanobis() -> None:
    recipe = recipe_from_document(SMALL, where="here")
    (objective,) = recipe.objective
    assert objective.name == "isogon"
    assert recipe.ood.name == "mahalanobis"
    assert objective.pairs_weight == 3


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"train": {"learning_rat": 1}},
            r"\[train\]: unknown key `learning_rat`; did",
        ),
        ({"trian": {}}, "unknown key `trian`; did you mean `train`"),
        ({"train": {"zzz": 1}}, "known are epochs, steps, batch_size"),
        ({"data": {}}, r"\[data\]: `images` is missing"),
        ({"train": {"epochs": -1}}, "`epochs`: .*greater than or equal to 0, got -1"),
        ({"objective": {"name": "cospress"}}, "in two brackets"),
        (
            {"objective": [{"name": "cospres"}]},
            r"unknown name `cospres`; did you mean `cospress`\?$",
        ),
        (
            {"objective": [{"name": "cospress", "temperature": [1]}]},
            r"\[objective 0 cospress\]: unknown key `temperature`; did you mean `temperatures`",
        ),
        ({"objective": [{"name": "rkd"}, {"name": "rkd"}]}, "each objective once"),
        ({"objective": []}, "at least 1 item"),
        (
            {"data": {"images": "x", "unfamiliar": "y"}},
            r"\[data\]: `unfamiliar` has moved; write an \[\[unfamiliar\]\] table",
        ),
        ({"unfamiliar": {"name": "a", "images": "b"}}, "`unfamiliar`: .*in two brackets"),
        (
            {"unfamiliar": [{"name": "a", "image": "b"}]},
            r"\[unfamiliar 0\]: unknown key `image`; did you mean `images`",
        ),
        ({"unfamiliar": [{"name": "a", "images": "b"}] * 2}, "a different name for each"),
        (
            {"unfamiliar": [{"name": "a", "images": "b", "kind": "x"}]},
            r"\[unfamiliar 0\]: `kind`: .*'near' or 'far'",
        ),
        ({"ood": {"alpha": 2}}, "`alpha`"),
        ({"ood": {"name": "kn"}}, r"\[ood\]: `name`: .*expected one of .*knn, "),
        ({"data": {"images": "x", "scale": [1.0, 0.5]}}, "`scale`: .*smallest <= largest"),
        ({"data": {"images": "x", "scale": [0.5, "a"]}}, r"\[data\]: `scale.1`"),
        ({"data": {"images": "x", "augment": "nonsense"}}, "starts with one of"),
        ({"train": {"epochs": 3, "warmup_epochs": 3}}, "warmup_epochs below epochs"),
        ({"objective": [{"name": "cospress", "temperatures": []}]}, "at least 1 item"),
    ],
)
def test_a_wrong_key_or_value_is_explained(change: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        recipe_from_document(SMALL | change, where="my.toml")


def test_what_is_not_a_recipe_is_explained(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no recipe at"):
        recipe_from_toml(tmp_path / "nowhere.toml")
    with pytest.raises(
        UsageError, match=r"is a folder, not a recipe\. If it holds images, write "
    ):
        recipe_from_toml(tmp_path)
    path = tmp_path / "broken.toml"
    path.write_text("name = ")
    with pytest.raises(UsageError, match="is not TOML"):
        recipe_from_toml(path)


def test_a_recipe_survives_the_bundle(recipe: Recipe, exported: Path) -> None:
    assert recipe_from_toml(exported / "recipe.toml") == portable(recipe, exported.parent)


def test_no_file_of_a_bundle_holds_the_folders_of_its_images(
    exported: Path, digits: Path, photographs: Path
) -> None:
    source = str(Path(__file__).parents[2])
    for path in exported.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        for told in (str(digits), str(photographs), source):
            assert told.encode() not in content, f"{path} tells of {told}"


def test_the_page_of_keys_is_up_to_date_and_explains_every_key() -> None:
    page = (Path(__file__).parents[2] / "recipes" / "keys.md").read_text(encoding="utf-8")
    assert page == keys_page(), "run `make keys`"
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| `")]
    assert len(rows) > 80
    for row in rows:
        assert row[-1].strip(" |"), f"{row[0]} has no description"


def test_earlier_names_of_keys_are_read_with_a_note() -> None:
    document = {
        "teacher": {"name": "test_vit", "licence": "MIT"},
        "student": {"name": "test_resnet"},
        "data": {"images": "x", "colour_jitter": 0.2, "grey": 0.1},
        "objective": [{"name": "vkd", "normalisation": "whiten"}],
    }
    recipe = recipe_from_document(document, where="my.toml")
    assert (recipe.teacher.license, recipe.data.color_jitter) == ("MIT", 0.2)
    assert (recipe.data.gray, recipe.objective[0].normalization) == (0.1, "whiten")
    notes = renamed_in(document, where="my.toml")
    assert notes[1].startswith("my.toml [data]: `colour_jitter` is called `color_jitter`")
    assert len(notes) == 4
    assert recipe_from_document(recipe.model_dump(), where="here") == recipe
    assert renamed_in(recipe.model_dump(), where="here") == ()

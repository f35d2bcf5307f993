"""The model card says what the bundle's records say, and is a hub's card."""

from pathlib import Path

import pytest
import yaml

from isogon.bundle import Bundle, Evaluation, parity_reports
from isogon.bundle.card import model_card
from isogon.bundle.worth import worth_of
from isogon.cli.inspection import card


def test_the_card_has_the_bundles_own_figures(exported: Path) -> None:
    bundle = Bundle.open(exported)
    text = model_card(bundle)
    found = bundle.record("evaluation.json", Evaluation)
    assert found.fidelity is not None
    assert worth_of(found).sentence in text
    assert f"| {found.fidelity.angle_distortion:.3f} |" in text
    assert f"{found.test_images:,} test images" in text
    (report,) = parity_reports(bundle)
    assert f"`onnx/model.onnx` | `{report.sha256[:12]}…`" in text
    assert f"| {report.figures.min_cosine:.7f} |" in text
    assert f'isogon.load("{bundle.manifest.name}.isogon")' in text


def test_its_head_is_metadata_that_a_hub_reads(exported: Path) -> None:
    _, head, _ = model_card(Bundle.open(exported)).split("---\n", 2)
    found = yaml.safe_load(head)
    assert found["library_name"] == "isogon"
    assert found["pipeline_tag"] == "image-feature-extraction"
    assert found["license_name"] == Bundle.open(exported).manifest.student.licence


def test_every_table_has_as_many_cells_in_each_row(exported: Path) -> None:
    for table in model_card(Bundle.open(exported)).split("\n\n"):
        if table.startswith("|"):
            assert len({line.count("|") for line in table.splitlines()}) == 1, table


def test_the_command_writes_a_file(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card(exported)
    card(exported, tmp_path / "README.md")
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out == text == model_card(Bundle.open(exported))

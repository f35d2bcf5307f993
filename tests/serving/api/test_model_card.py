"""`GET /v1/model`: each value equals that of the bundle."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient

from isogon.bundle import (
    ONNX,
    REDUCTION,
    Bundle,
    FalseAlarms,
    Reduction,
    vouched_artifact,
)
from isogon.bundle.evaluation import EVALUATION, Evaluation
from isogon.bundle.worth import worth_of
from isogon.errors import DamagedFileError
from serving.app import create_app
from serving.models import Models
from serving.settings import Settings


def card(bundle: Bundle, **settings: object) -> dict:
    app = create_app()
    app.state.models = Models.load(Settings(bundle=bundle.path, **settings))
    return TestClient(app).get("/v1/model").json()


def test_the_card_says_what_the_bundle_says(url: str, exported: object) -> None:
    bundle = Bundle.open(exported)
    report = vouched_artifact(bundle).report
    answer = httpx.get(f"{url}/v1/model").json()
    manifest = bundle.manifest.model_dump(mode="json")
    for key in ("schema_version", "student", "teacher", "preprocessing", "provenance"):
        assert answer[key] == manifest[key]
    assert answer["fingerprint"] == bundle.manifest.files[ONNX].sha256
    figures = report.figures.model_dump(mode="json")
    assert {key: answer["parity"][key] for key in figures} == figures
    assert answer["parity"]["bounds"] == report.tolerance.model_dump(mode="json")
    assert answer["limits"]["images"] == 64


def test_the_realised_false_alarm_rate_was_measured_on_the_test_images(
    bundle: Bundle,
) -> None:
    realised = card(bundle)["calibration"]["realised"]
    assert realised["images"] == 36  # 15 % of 240
    assert realised["rate"] == realised["flagged"] / realised["images"]
    assert realised["low"] <= realised["rate"] <= realised["high"]
    expected = card(bundle)["calibration"]["expected"]
    assert 0 < expected["low"] < 0.05 < expected["high"] < 0.2


def test_another_rate_has_no_realised_one_but_an_expected_one(bundle: Bundle) -> None:
    calibration = card(bundle, alpha=0.2)["calibration"]
    assert (calibration["alpha"], calibration["realised"]) == (0.2, None)
    assert calibration["expected"]["low"] < 0.2 < calibration["expected"]["high"]


def test_a_detector_of_the_site_has_no_realised_rate_of_another(bundle: Bundle) -> None:
    from isogon.bundle import measured_false_alarms

    alpha = vouched_artifact(bundle).calibration.alpha
    assert isinstance(measured_false_alarms(bundle, alpha), FalseAlarms)
    with bundle.stage("calibrate") as stage:
        stage.write("ood/site/detector.json", "{}")
    assert measured_false_alarms(bundle, alpha) is None


def test_the_card_is_of_the_bundle_that_was_loaded_though_it_is_gone(
    bundle: Bundle,
) -> None:
    app = create_app()
    app.state.models = Models.load(Settings(bundle=bundle.path))
    client = TestClient(app)
    before = client.get("/v1/model").json()
    assert before["calibration"]["realised"]
    shutil.rmtree(bundle.path)
    assert client.get("/v1/model").json() == before
    answer = client.get("/v1/examples")
    assert answer.status_code == 404
    assert "have moved since it was loaded" in answer.json()["detail"]


def test_the_student_stands_beside_its_teacher_and_the_undistilled_one(
    judged: Callable[..., Path],
) -> None:
    bundle = Bundle.open(judged("paid", 0.1))
    found = bundle.record(EVALUATION, Evaluation)
    shown = card(bundle)["evaluation"]
    assert (shown["test_images"], shown["bank_images"]) == (36, 168)
    assert found.fidelity and found.teacher and found.undistilled
    overlap = found.fidelity.neighbour_overlap
    assert shown["student"]["neighbour_overlap"] == overlap
    for before in (shown["undistilled"], shown["start"]):
        assert before["neighbour_overlap"] == pytest.approx(overlap - 0.1)
        assert before["angle_distortion"] == found.fidelity.angle_distortion
    assert shown["teacher"]["neighbour_overlap"] is None
    for name, quality in (("student", found.student), ("teacher", found.teacher)):
        assert quality.knn_accuracy
        assert shown[name]["knn_accuracy"] == quality.knn_accuracy.model_dump()
        auroc = quality.ood["photographs"][found.detector].auroc
        assert shown[name]["auroc"] == {"photographs": auroc.model_dump()}


@pytest.mark.parametrize(
    ("gain", "verdict"), [(0.1, "paid"), (-0.1, "not paid"), (0.01, "unclear")]
)
def test_the_card_says_whether_distilling_has_paid(
    judged: Callable[..., Path], gain: float, verdict: str
) -> None:
    bundle = Bundle.open(judged("one", gain))
    found = bundle.record(EVALUATION, Evaluation)
    shown = card(bundle)["evaluation"]["distillation"]
    assert shown["verdict"] == verdict
    assert shown["sentence"] == worth_of(found).sentence
    assert shown["gains"] == {"overlap@10": found.gains["overlap@10"].model_dump()}
    assert shown["pretrained"] is True


def test_the_card_says_how_many_unfamiliar_images_are_flagged(
    judged: Callable[..., Path],
) -> None:
    bundle = Bundle.open(judged("one", 0.1))
    found = bundle.record(EVALUATION, Evaluation)
    auroc = found.student.ood["photographs"][found.detector].auroc
    assert card(bundle, alpha=0.2)["evaluation"]["detection"] == {
        "sentence": "Flags 67 % of 12 unfamiliar images.",
        "detector": found.detector,
        "alpha": 0.05,  # at which they were counted
        "served": "same",
        "sets": {
            "photographs": {
                "kind": "far",
                "images": 12,
                "flagged": 8,
                "auroc": auroc.model_dump(),
            }
        },
    }


def test_a_detector_other_than_the_measured_one_is_marked(bundle: Bundle) -> None:
    statistics = bundle.manifest.files["ood/reference.safetensors"].sha256
    numbers = {"bank": 168, "size": 40, "k_before": 5, "k": 1, "familiar": 0}
    for reduced, served in (("0" * 64, "same"), (statistics, "reduced")):
        reduction = Reduction(
            statistics=reduced,
            vectors="0" * 64,
            unfamiliar=0,
            auroc_before=None,
            auroc=None,
            **numbers,
        )
        with bundle.stage("export") as writer:
            writer.write(REDUCTION, reduction.model_dump_json())
        assert card(bundle)["evaluation"]["detection"]["served"] == served
    with bundle.stage("calibrate") as writer:
        writer.write("ood/site/detector.json", "{}")
    assert card(bundle)["evaluation"]["detection"]["served"] == "site"


def test_nothing_is_made_up_for_an_older_bundle(judged: Callable[..., Path]) -> None:
    shown = card(Bundle.open(judged("old", None)))["evaluation"]
    assert shown["student"]["knn_accuracy"]["value"] > 0.1
    assert (shown["undistilled"], shown["start"]) == (None, None)
    assert shown["distillation"]["verdict"] == "unknown"
    assert shown["distillation"]["gains"] == {}
    assert shown["distillation"]["pretrained"] is None
    assert shown["detection"]["sentence"] is None
    assert shown["detection"]["sets"]["photographs"]["flagged"] is None


@pytest.mark.parametrize("content", ["{}", None])
def test_a_bundle_is_served_without_an_evaluation_that_can_be_read(
    bundle: Bundle, content: str | None, caplog: pytest.LogCaptureFixture, photo: bytes
) -> None:
    with bundle.stage("evaluate") as stage:
        stage.withdraw(EVALUATION)
        if content is not None:
            stage.write(EVALUATION, content)
    app = create_app()
    with caplog.at_level(logging.WARNING):
        app.state.models = Models.load(Settings(bundle=bundle.path))
    said = "evaluation.json is not a Evaluation of this version of Isogon"
    assert (said in caplog.text) == (content is not None)
    with TestClient(app) as client:
        assert client.get("/v1/model").json()["evaluation"] is None
        assert client.post("/v1/embed", files={"images": photo}).status_code == 200


def test_a_damaged_evaluation_is_refused_as_every_damaged_file_is(bundle: Bundle) -> None:
    with bundle.file(EVALUATION).open("a") as file:
        file.write(" ")
    with pytest.raises(DamagedFileError, match=r"evaluation\.json .*isogon evaluate"):
        Models.load(Settings(bundle=bundle.path))


def test_an_unknown_model_is_404_and_an_empty_name_is_none(url: str) -> None:
    answer = httpx.get(f"{url}/v1/model", params={"model": "nobody"})
    assert answer.status_code == 404
    assert np.all([word in answer.json()["detail"] for word in ("'nobody'", "digits")])
    assert httpx.get(f"{url}/v1/model", params={"model": ""}).status_code == 200

"""`GET /v1/model`: nothing in it is made up."""

import shutil

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient

from bundle import ONNX, Bundle, FalseAlarms, vouched_artifact
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
    from bundle import measured_false_alarms

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
    assert "no longer where they were" in answer.json()["detail"]


@pytest.mark.parametrize("name", ["nobody", ""])
def test_an_unknown_model_is_404(url: str, name: str) -> None:
    answer = httpx.get(f"{url}/v1/model", params={"model": name})
    assert answer.status_code == 404
    assert np.all([word in answer.json()["detail"] for word in (repr(name), "digits")])

"""Several models behind one service, in process: real bundles, real runtime, no server."""

import base64
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from isogon.bundle import ONNX, Bundle
from isogon.errors import UsageError
from serving.app import create_app
from serving.models import Models
from serving.settings import Settings, Source, settings_from_environment


def fingerprint(path: Path) -> str:
    return Bundle.open(path).manifest.files[ONNX].sha256


@pytest.fixture
def client(exported: Path, another: Path) -> Iterator[TestClient]:
    app = create_app()
    app.state.models = Models.load(Settings(bundle=[exported, f"other={another}"]))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def photo(photographs: Path) -> bytes:
    return (photographs / "coffee.jpg").read_bytes()


def test_models_are_listed_the_default_first(
    client: TestClient, exported: Path, another: Path
) -> None:
    answer = client.get("/v1/models").json()
    assert answer["object"] == "list"
    first, second = answer["data"]
    assert (first["id"], first["default"]) == ("digits", True)
    assert (second["id"], second["default"]) == ("other", False)
    assert first["fingerprint"] == fingerprint(exported)
    assert second["fingerprint"] == fingerprint(another)
    assert first["object"] == "model"
    assert 1_700_000_000 < first["created"] < 4_000_000_000
    assert client.get("/v1/models/other").json() == second


@pytest.mark.parametrize("path", ["/v1/embed", "/v1/score"])
def test_a_request_names_its_model(
    client: TestClient, photo: bytes, path: str, exported: Path, another: Path
) -> None:
    def model(query: str) -> dict[str, str]:
        answer = client.post(path + query, files={"images": photo})
        named: dict[str, str] = answer.json()["model"]
        return named

    assert model("") == model("?model=digits") == model("?model=")
    assert model("")["fingerprint"] == fingerprint(exported)
    assert model("?model=other") == {"name": "other", "fingerprint": fingerprint(another)}


def test_an_empty_name_is_no_name_wherever_it_stands(
    client: TestClient, photo: bytes
) -> None:
    text = base64.b64encode(photo).decode()
    for answer, named in (
        (client.get("/v1/model?model="), "digits"),
        (client.post("/v1/embed", json={"images": [text], "model": ""}), "digits"),
        (
            client.post("/v1/embed?model=other", json={"images": [text], "model": ""}),
            "other",
        ),
        (
            client.post("/v1/embed?model=", json={"images": [text], "model": "other"}),
            "other",
        ),
        (client.post("/v1/score", files={"images": photo}, data={"model": ""}), "digits"),
    ):
        document = answer.json()
        assert document.get("model", document)["name"] == named


def test_the_card_is_of_the_model_named(client: TestClient, another: Path) -> None:
    assert client.get("/v1/model").json()["name"] == "digits"
    assert client.get("/v1/model?model=other").json()["fingerprint"] == fingerprint(another)


def test_an_unknown_model_is_404_and_those_there_are_named(
    client: TestClient, photo: bytes
) -> None:
    for answer in (
        client.post("/v1/embed?model=x", files={"images": photo}),
        client.post("/v1/score?model=x", files={"images": photo}),
        client.get("/v1/model?model=x"),
        client.get("/v1/models/x"),
    ):
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"
        detail = answer.json()["detail"]
        assert detail == "There is no model 'x' here. Ask for one of 'digits', 'other'."


def test_two_models_of_one_name_are_refused_with_what_to_do(
    exported: Path, another: Path
) -> None:
    settings = Settings(bundle=[exported, another])
    with pytest.raises(UsageError, match=f"called 'digits'.*`digits-2={another}`"):
        Models.load(settings)


@pytest.mark.parametrize("text", ["a b=somewhere", "=somewhere", "a="])
def test_a_name_that_requests_could_not_say_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="Expected a directory or NAME=DIRECTORY"):
        settings_from_environment([text])


def test_the_environment_names_several_bundles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISOGON_BUNDLE", os.pathsep.join(["/a/b", "new=/c=d", "./e=f"]))
    assert settings_from_environment().bundle == (
        Source(path=Path("/a/b")),
        Source(path=Path("/c=d"), name="new"),
        Source(path=Path("./e=f")),
    )
    monkeypatch.setenv("ISOGON_BUNDLE", "")
    with pytest.raises(UsageError, match="ISOGON_BUNDLE: expected a bundle's directory"):
        settings_from_environment()

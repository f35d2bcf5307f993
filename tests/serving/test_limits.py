"""Settings, with the application in process: real bundle, real runtime, no server."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from isogon.bundle import GOLDEN, Bundle
from isogon.errors import CheckFailedError, UsageError
from serving.app import create_app
from serving.models import Models
from serving.settings import Settings, Source, settings_from_environment

Serve = Callable[..., TestClient]


@pytest.fixture
def serve(exported: Path) -> Iterator[Serve]:
    def with_settings(**settings: object) -> TestClient:
        app = create_app()
        app.state.models = Models.load(Settings(bundle=exported, **settings))
        return TestClient(app, raise_server_exceptions=False)

    yield with_settings


@pytest.fixture
def photo(photographs: Path) -> bytes:
    return (photographs / "coffee.jpg").read_bytes()


def test_every_setting_is_an_environment_variable(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISOGON_BUNDLE", str(exported))
    monkeypatch.setenv("ISOGON_ALPHA", "0.2")
    monkeypatch.setenv("ISOGON_MAX_IMAGES", "3")
    settings = Settings()
    assert (settings.bundle, settings.alpha, settings.max_images) == (
        (Source(path=exported),),
        0.2,
        3,
    )


@pytest.mark.parametrize(
    ("name", "value"), [("ALPHA", "2"), ("MAX_IMAGES", "many"), ("ARTIFACT", "")]
)
def test_a_wrong_variable_is_named(
    exported: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"ISOGON_{name}", value)
    with pytest.raises(UsageError, match=f"ISOGON_{name}: .*got '{value}'"):
        settings_from_environment(exported)


@pytest.mark.parametrize(
    ("name", "meant"), [("ALFA", "ALPHA"), ("API_KEY", "API_KEYS"), ("QUEU", "QUEUE")]
)
def test_a_variable_that_is_nearly_a_settings_is_refused(
    exported: Path, monkeypatch: pytest.MonkeyPatch, name: str, meant: str
) -> None:
    for other in ("ISOGON_PORT", "ISOGON_SERVICE_HOST", "ISOGON_PORT_3000_TCP"):
        monkeypatch.setenv(other, "1")  # as Kubernetes sets them
    settings_from_environment(exported)
    monkeypatch.setenv(f"ISOGON_{name}", "0.1")
    with pytest.raises(
        UsageError, match=f"ISOGON_{name} is not a setting; .*ISOGON_{meant}"
    ):
        settings_from_environment(exported)


@pytest.mark.parametrize("name", ["QUEUE", "MAX_IMAGES"])
def test_the_queue_holds_a_whole_request(
    exported: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(f"ISOGON_{name}", {"QUEUE": "63", "MAX_IMAGES": "513"}[name])
    with pytest.raises(UsageError, match=r"ISOGON_QUEUE: .*at least ISOGON_MAX_IMAGES"):
        settings_from_environment(exported)


def test_memory_holds_a_whole_body(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISOGON_MAX_HELD_BYTES", "1000")
    with pytest.raises(UsageError, match=r"MAX_HELD_BYTES: .*ISOGON_MAX_BODY_BYTES"):
        settings_from_environment(exported)


@pytest.mark.parametrize(
    ("limit", "says"),
    [
        ({"max_image_bytes": 100}, "more than the limit of 100"),
        ({"max_image_pixels": 100}, "pixels, more than the limit of 100"),
        ({"max_body_bytes": 100}, "the limit is 100"),
    ],
)
def test_each_limit_answers_413(
    serve: Serve, photo: bytes, limit: dict[str, int], says: str
) -> None:
    answer = serve(**limit).post("/v1/embed", files={"images": photo})
    assert answer.status_code == 413
    assert says in answer.json()["detail"]


def test_the_number_of_images_is_limited(serve: Serve, photo: bytes) -> None:
    files = [("images", photo)] * 3
    assert serve(max_images=3).post("/v1/score", files=files).status_code == 200
    assert serve(max_images=2).post("/v1/score", files=files).status_code == 413


def test_alpha_changes_decisions_and_must_be_kept(
    serve: Serve, photo: bytes, exported: Path
) -> None:
    def answer(alpha: float) -> dict[str, float]:
        response = serve(alpha=alpha).post("/v1/score", files={"images": photo})
        ood: dict[str, float] = response.json()["results"][0]["ood"]
        return ood

    strict, lax = answer(0.04), answer(0.9)
    assert strict["p_value"] == lax["p_value"]
    assert lax["is_ood"] == (lax["p_value"] <= 0.9)
    with pytest.raises(UsageError, match="false-alarm rate of 0"):
        Models.load(Settings(bundle=exported, alpha=0.001))


def test_a_service_that_fails_its_golden_check_does_not_start(bundle: Bundle) -> None:
    arrays = bundle.arrays(GOLDEN)
    arrays["embeddings"] = -arrays["embeddings"]
    with bundle.stage("export") as stage:
        stage.write_arrays(GOLDEN, arrays)
    with pytest.raises(CheckFailedError, match="golden images"):
        Models.load(Settings(bundle=bundle.path))


def test_our_own_failure_is_a_problem_too(serve: Serve, photo: bytes) -> None:
    client = serve()
    del client.app.state.models
    answer = client.post("/v1/embed", files={"images": photo})
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "Its log has the reason" in answer.json()["detail"]


def test_uploads_need_no_temporary_folder(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    answer = serve().post("/v1/score", files={"images": b"x" * 3_000_000})
    assert answer.status_code == 400


def test_a_raw_image_is_refused_at_its_own_limit(serve: Serve) -> None:
    headers = {"content-type": "image/jpeg"}
    answer = serve(max_image_bytes=1000).post(
        "/v1/score", content=b"x" * 1001, headers=headers
    )
    assert answer.status_code == 413
    assert "the limit is 1,000" in answer.json()["detail"]

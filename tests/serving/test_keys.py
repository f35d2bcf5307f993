"""API keys and other origins, in process; nothing is mocked."""

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient

from isogon.errors import UsageError
from serving.app import create_app
from serving.models import Models
from serving.settings import Settings, settings_from_environment

KEYS = ["first-key", "s3cret/+="]
SITE = "https://app.example"
Client = Callable[..., TestClient]


@pytest.fixture
def client(exported: Path) -> Client:
    def with_settings(**settings: object) -> TestClient:
        app = create_app()
        app.state.models = Models.load(Settings(bundle=exported, **settings))
        return TestClient(app, raise_server_exceptions=False)

    return with_settings


def refused(answer: httpx.Response) -> bool:
    if answer.status_code != 401:
        return False
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "Authorization: Bearer KEY" in answer.json()["detail"]
    return True


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "Bearer "},
        {"authorization": f"Basic {KEYS[0]}"},
        {"authorization": KEYS[0]},
        {"authorization": f"Bearer {KEYS[0]}x"},
        {"authorization": f"Bearer {KEYS[0][:-1]}"},
        {"authorization": f"Bearer {','.join(KEYS)}"},
        {"x-api-key": ""},
        {"x-api-key": b"\xff\xfe"},
        {"cookie": f"x-api-key={KEYS[0]}"},
    ],
    ids=str,
)
def test_who_shows_no_key_is_refused(client: Client, headers: dict[str, str]) -> None:
    asked = client(api_keys=KEYS)
    for path in ("/v1/model", "/v1/models", "/v1/models/digits", "/nowhere", "/page"):
        assert refused(asked.get(path, headers=headers)), path
    for path in ("/v1/embed", "/v1/score", "/v1/embeddings", "/livez/", "/livez/x"):
        assert refused(asked.post(path, headers=headers, content=b"x")), path


@pytest.mark.parametrize("key", KEYS)
def test_every_key_is_accepted_in_both_headers(client: Client, key: str) -> None:
    asked = client(api_keys=KEYS)
    for headers in (
        {"authorization": f"Bearer {key}"},
        {"authorization": f"bearer  {key} "},
        {"x-api-key": key},
        {"x-api-key": "wrong", "authorization": f"Bearer {key}"},
    ):
        assert asked.get("/v1/model", headers=headers).status_code == 200


def test_probes_and_what_is_no_secret_need_no_key(client: Client) -> None:
    asked = client(api_keys=KEYS)
    for path in ("/livez", "/readyz", "/healthz", "/", "/openapi.json"):
        assert asked.get(path).status_code == 200, path
    for path in ("/metrics", "/page/page.css"):
        assert asked.get(path).status_code != 401, path


def test_without_keys_everyone_may_ask(client: Client) -> None:
    assert client().get("/v1/model").status_code == 200


@pytest.mark.parametrize("value", ["", " , ", "two words", "clé"])
def test_keys_that_cannot_be_are_refused_and_not_shown(
    exported: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("ISOGON_API_KEYS", value)
    with pytest.raises(UsageError, match="ISOGON_API_KEYS: expected keys") as caught:
        settings_from_environment(exported)
    assert not value.strip(" ,") or value not in str(caught.value)


def test_keys_come_from_the_environment_and_show_nowhere(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISOGON_API_KEYS", f"{KEYS[0]}, {KEYS[1]}")
    settings = settings_from_environment(exported)
    assert [key.get_secret_value() for key in settings.api_keys] == KEYS
    for shown in (repr(settings), str(settings), settings.model_dump_json()):
        assert not any(key in shown for key in KEYS)


def test_another_site_may_not_ask_unless_it_is_named(client: Client) -> None:
    headers = {"origin": SITE, "access-control-request-method": "POST"}
    silent = client()
    assert (
        "access-control-allow-origin"
        not in silent.get("/v1/model", headers=headers).headers
    )
    assert silent.options("/v1/embed", headers=headers).status_code == 405
    named = client(cors_origins=[SITE], api_keys=KEYS)
    assert named.options("/v1/embed", headers=headers).status_code == 200
    other = headers | {"origin": "https://other.example"}
    assert named.options("/v1/embed", headers=other).status_code == 400
    for answer in (
        named.get("/v1/model", headers={"origin": SITE}),  # refused for want of a key
        named.get("/v1/model", headers={"origin": SITE, "x-api-key": KEYS[0]}),
    ):
        assert answer.headers["access-control-allow-origin"] == SITE
        exposed = answer.headers["access-control-expose-headers"]
        assert set(exposed.split(", ")) == {"retry-after", "x-request-id"}


@pytest.mark.parametrize("value", ["app.example", "https://app.example/", "ftp://x"])
def test_what_is_no_origin_is_named(
    exported: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("ISOGON_CORS_ORIGINS", f"{SITE},{value}")
    with pytest.raises(UsageError, match=f"ISOGON_CORS_ORIGINS: .*'{value}' among them"):
        settings_from_environment(exported)

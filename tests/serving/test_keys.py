"""API keys and other origins, in process; nothing is mocked."""

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient

from isogon.errors import UsageError
from serving.app import create_app
from serving.limits.keys import Key, Rate, Rates, keys_of
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
def test_what_is_not_an_origin_is_named(
    exported: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("ISOGON_CORS_ORIGINS", f"{SITE},{value}")
    with pytest.raises(UsageError, match=f"ISOGON_CORS_ORIGINS: .*'{value}' among them"):
        settings_from_environment(exported)


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_keys_of_a_file_are_known_by_name_and_read_again(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = hashlib.sha256(b"only its hash is known").hexdigest()
    text = f"# of the site\n\napp  first-of-app\nother sha256:{digest} 1000/h\n"
    file = written(tmp_path / "keys", text)
    asked = client(keys_file=file, api_keys=KEYS)

    def status(key: str) -> int:
        return asked.get("/v1/model", headers={"x-api-key": key}).status_code

    assert [status(key) for key in ("first-of-app", KEYS[0])] == [200, 200]
    assert status("only its hash is known") == 200
    assert status(digest) == 401
    counted = asked.app.state.metrics.keys.labels  # type: ignore[attr-defined]
    assert counted("app", "accepted")._value.get() == 1
    assert counted("key-1", "accepted")._value.get() == 1

    monkeypatch.setattr("serving.limits.keys._CHECK_EVERY", 0.0)
    written(file, "app second-of-app\n")
    assert [status(key) for key in ("first-of-app", "second-of-app")] == [401, 200]
    file.write_text("what is this")
    assert status("second-of-app") == 200  # a file that is wrong changes nothing
    file.unlink()
    assert status("second-of-app") == 200


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "holds 0 keys"),
        ("app short", "line 1: expected `NAME KEY"),
        ("a 12345678\n\nb 12345678 5/week", "line 3: expected"),
        ("a 12345678\na 87654321", "line 2: an earlier line has the name 'a'"),
        ("a sha256:12", "line 1"),
    ],
)
def test_the_error_of_a_wrong_file_of_keys_shows_no_key(
    tmp_path: Path, text: str, told: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(told)) as caught:
        keys_of(written(tmp_path / "keys", text))
    assert "1234567" not in str(caught.value)
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        keys_of(tmp_path / "missing")


def test_a_key_has_its_rate_and_its_refusal_says_when_to_retry(
    client: Client, tmp_path: Path
) -> None:
    file = written(tmp_path / "keys", "slow 12345678 6/min burst=2\nfast 87654321\n")
    asked = client(keys_file=file)
    slow, fast = ({"x-api-key": key} for key in ("12345678", "87654321"))
    codes = [asked.get("/v1/model", headers=slow).status_code for _ in range(3)]
    assert codes == [200, 200, 429]
    refused = asked.get("/v1/model", headers=slow)
    assert 9 <= int(refused.headers["retry-after"]) <= 10
    assert "'slow' may send 0.1 requests a second, and 2 at once" in refused.text
    assert asked.get("/v1/model", headers=fast).status_code == 200


def test_a_bucket_fills_as_its_rate_says_and_is_shared_by_processes() -> None:
    rates = Rates()
    keys = [
        Key(name=f"k{number}", digest=b"", rate=Rate(per_second=4, burst=3))
        for number in range(1100)
    ]
    key = keys[0]
    assert [rates.wait(key, now=100.0) for _ in range(4)] == [0, 0, 0, 0.25]
    assert rates.wait(key, now=100.2) == pytest.approx(0.05)
    child = os.fork()
    if child == 0:
        os._exit(rates.wait(key, now=100.25) != 0)  # takes the one that has come
    assert os.waitpid(child, 0)[1] == 0
    assert rates.wait(key, now=100.25) == pytest.approx(0.25)
    assert rates.wait(key, now=1e6) == 0
    # Full buckets make room: there are more keys than places.
    assert {rates.wait(each, now=1e6 + 10 * n) for n, each in enumerate(keys)} == {0}

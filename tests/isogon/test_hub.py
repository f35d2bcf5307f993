"""A bundle is pushed to a hub and pulled again, with a stand-in of the hub's API."""

import importlib.util
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from huggingface_hub import constants

from isogon.bundle import Bundle
from isogon.errors import DamagedFileError, UsageError
from isogon.hub import pull, push
from serving.process import free_port

_FILE = Path(__file__).with_name("hub_standin.py")
_SPEC = importlib.util.spec_from_file_location("hub_standin", _FILE)
assert _SPEC is not None
assert _SPEC.loader is not None
hub_standin = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(hub_standin)

Repositories = dict[str, dict[str, bytes]]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Repositories]:
    repositories: Repositories = {}
    port = free_port()
    config = uvicorn.Config(
        hub_standin.stand_in(repositories), port=port, log_level="error"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    template = f"http://127.0.0.1:{port}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", hub_standin.TOKEN)
    try:
        yield repositories
    finally:
        server.should_exit = True
        thread.join()


def test_what_is_pushed_is_what_is_pulled(
    exported: Path, hub: Repositories, tmp_path: Path
) -> None:
    address = push(exported, "somebody/digits")
    assert "/somebody/digits/commit/" in address
    bundle = Bundle.open(exported)
    named = {"manifest.json", "README.md", *bundle.manifest.files}
    assert set(hub["somebody/digits"]) == named  # no lock, nothing beside the manifest
    assert hub["somebody/digits"]["README.md"].startswith(b"---\nlibrary_name: isogon")
    pulled = pull("somebody/digits", output=tmp_path / "digits.isogon")
    assert pulled.manifest == bundle.manifest
    assert {path.name for path in tmp_path.iterdir()} == {"digits.isogon"}
    push(exported, "somebody/digits")  # again: the repository is there
    with pytest.raises(UsageError, match=r"digits\.isogon"):
        pull("somebody/digits", output=tmp_path / "digits.isogon")


def test_a_bundle_that_was_changed_on_the_hub_does_not_appear(
    exported: Path, hub: Repositories, tmp_path: Path
) -> None:
    push(exported, "somebody/digits")
    hub["somebody/digits"]["model.safetensors"] += b" "
    with pytest.raises(DamagedFileError, match=r"model\.safetensors"):
        pull("somebody/digits", output=tmp_path / "digits.isogon")
    assert not list(tmp_path.iterdir())


def test_what_the_hub_refuses_is_reported(
    exported: Path, hub: Repositories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="pull from somebody/nothing"):
        pull("somebody/nothing", output=tmp_path / "x.isogon")
    with pytest.raises(UsageError, match="as user/name"):
        pull("a/b/c", output=tmp_path / "x.isogon")
    monkeypatch.setenv("HF_TOKEN", "wrong")
    with pytest.raises(UsageError, match=r"push to somebody/digits.*your token"):
        push(exported, "somebody/digits")


def test_a_hub_that_does_not_answer_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(UsageError, match="HF_ENDPOINT"):
        pull("somebody/digits", output=tmp_path / "x.isogon")

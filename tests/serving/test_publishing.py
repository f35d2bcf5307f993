"""`isogon publish` as a process, with a model store of its own."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
import yaml
from rich.progress import Progress

from isogon.bundle import GOLDEN, ONNX, Bundle
from isogon.bundle.evaluation import EVALUATION, Evaluation
from isogon.bundle.worth import worth_of
from isogon.errors import UsageError
from serving.locations import bundle_path, split_places
from serving.process import free_port
from serving.publishing import require_room, watched, whole


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "bentoml"


def publish(
    *arguments: object, home: Path, largest_file: int | None = None
) -> subprocess.CompletedProcess[str]:
    def limited() -> None:
        if largest_file is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    return subprocess.run(
        [sys.executable, "-m", "isogon", "publish", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"BENTOML_HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=limited,
        timeout=120,
        check=False,
    )


def published(*arguments: object, home: Path) -> dict[str, object]:
    done = publish(*arguments, "--json", home=home)
    assert done.returncode == 0, done.stderr
    document: dict[str, object] = json.loads(done.stdout)
    return document


def stored(home: Path) -> list[Path]:
    return [path for path in (home / "models").glob("*/*") if path.is_dir()]


def test_a_published_bundle_is_whole_described_and_found_again(
    exported: Path, home: Path
) -> None:
    first = published(exported, home=home)
    path = Path(str(first["path"]))
    manifest = json.loads((exported / "manifest.json").read_text())
    assert first["tag"] == f"digits:{manifest['checksum'][:16]}"
    assert path == home / "models" / "digits" / manifest["checksum"][:16]
    assert not any(file.is_symlink() for file in path.rglob("*"))
    copy = Bundle.open(path)
    assert copy.manifest == Bundle.open(exported).manifest
    assert not (path / ".lock").exists()

    card = yaml.safe_load((path / "model.yaml").read_text())
    assert card["labels"] == {
        "made-by": "isogon",
        "width": "32",
        "student": "test_resnet",
        "teacher": "tf_efficientnet_lite0",
    }
    facts = card["metadata"]
    assert facts["fingerprints"] == {ONNX: copy.manifest.files[ONNX].sha256}
    assert facts["teacher"]["licence"] == "Apache-2.0"
    assert facts["alpha"] == 0.05
    assert facts["distillation"] == worth_of(copy.record(EVALUATION, Evaluation)).sentence
    assert facts["detection"].startswith(("Flags ", "not measured"))

    for location in (str(first["tag"]), "digits", f"digits:{manifest['checksum'][:6]}"):
        code = "from serving.settings import Settings; print(Settings().bundle[0].path)"
        found = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env=os.environ
            | {"BENTOML_HOME": str(home), "ISOGON_BUNDLE": f"bentoml:{location}"},
        )
        assert found.stdout.strip() == str(path), found.stderr

    again = published(exported, home=home)
    assert again == first | {"already": True}
    assert first["already"] is False

    (path / "golden.safetensors").unlink()  # as a copy that was killed
    (path / "model.yaml").unlink()
    mended = published(exported, home=home)
    assert mended == first
    Bundle.open(path)
    assert stored(home) == [path]


def test_a_tag_of_ones_own_is_kept_from_other_content(
    bundle_path: Path, home: Path
) -> None:
    first = published(bundle_path, "--tag", "mine:v1", home=home)
    assert first["tag"] == "mine:v1"
    assert published(bundle_path, "--tag", "mine:v1", home=home)["already"] is True
    bundle = Bundle.open(bundle_path)
    with bundle.stage("export") as writer:
        writer.write("onnx/note.md", "Another bundle now.\n")
    refused = publish(bundle_path, "--tag", "mine:v1", home=home)
    assert refused.returncode == 2
    assert "mine:v1 exists already" in refused.stderr
    assert "onnx/note.md" not in Bundle.open(Path(str(first["path"])))
    assert published(bundle_path, "--tag", "mine", home=home)["already"] is False
    assert len(stored(home)) == 2


@pytest.mark.parametrize(
    ("tag", "says"),
    [
        ("not a tag", "not a tag is not a valid BentoML tag"),
        ("digits:latest", "Give another version, or --tag digits."),
    ],
)
def test_what_is_not_a_tag_is_refused(
    exported: Path, home: Path, tag: str, says: str
) -> None:
    refused = publish(exported, "--tag", tag, home=home)
    assert refused.returncode == 2
    assert says in refused.stderr
    assert stored(home) == []


@pytest.mark.parametrize(
    ("fault", "status", "says"),
    [
        ("unexported", 2, "no onnx/model.onnx with a parity report"),
        ("damaged", 2, "onnx/model.onnx"),
        ("golden", 1, "does not reproduce the golden images"),
    ],
)
def test_only_a_bundle_that_would_be_served_is_published(
    bundle_path: Path, home: Path, fault: str, status: int, says: str
) -> None:
    bundle = Bundle.open(bundle_path)
    if fault == "damaged":
        with (bundle_path / ONNX).open("r+b") as file:
            file.write(b"damage")
    else:
        golden = bundle.arrays(GOLDEN)
        with bundle.stage("export") as writer:
            if fault == "unexported":
                writer.withdraw(ONNX)
            else:
                golden["embeddings"] = np.roll(golden["embeddings"], 1, axis=1)
                writer.write_arrays(GOLDEN, golden)
    refused = publish(bundle_path, home=home)
    assert refused.returncode == status, refused.stderr
    assert says in " ".join(refused.stderr.split())
    assert stored(home) == []


def test_a_copy_that_fails_halfway_leaves_nothing(exported: Path, home: Path) -> None:
    failed = publish(exported, home=home, largest_file=200_000)
    assert failed.returncode == 2
    said = " ".join(failed.stderr.split())
    assert "failed: [Errno 27] File too large" in said
    assert "Nothing was published." in said
    assert "Traceback" not in failed.stderr
    assert list((home / "models").glob("*/")) == []


def test_an_interrupted_block_leaves_nothing_and_a_finished_one_everything(
    tmp_path: Path,
) -> None:
    target = tmp_path / "name" / "version"
    with pytest.raises(KeyboardInterrupt), whole(target, 1):
        target.mkdir(parents=True)
        raise KeyboardInterrupt
    assert not target.parent.exists()
    with whole(target, 1):
        target.mkdir(parents=True)
    assert target.exists()


def test_a_full_disk_is_reported_before_anything_is_copied(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(UsageError, match=r"has only [\d,.]+ MB free.*BENTOML_HOME"):
        require_room(tmp_path, free)
    require_room(tmp_path, 0)


def test_the_bar_follows_the_bytes(tmp_path: Path) -> None:
    progress = Progress(disable=True)
    with watched(progress, tmp_path, 4_000_000):
        (tmp_path / "half").write_bytes(bytes(2_000_000))
        deadline = time.monotonic() + 10
        while progress.tasks[0].completed != 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert progress.tasks[0].completed == 2
    assert progress.tasks[0].finished


def test_a_path_is_left_as_it_is(tmp_path: Path) -> None:
    assert bundle_path(tmp_path) == tmp_path
    assert bundle_path("relative.isogon") == Path("relative.isogon")


def test_a_model_that_is_not_there_is_reported(home: Path) -> None:
    for tag, says in (
        ("never-published", "bentoml:never-published is not a model"),
        ("not a tag", "isogon publish BUNDLE"),
    ):
        refused = subprocess.run(
            [sys.executable, "-m", "isogon", "serve", f"bentoml:{tag}"],
            capture_output=True,
            text=True,
            env=os.environ | {"BENTOML_HOME": str(home)},
        )
        assert refused.returncode == 2
        assert says in refused.stderr


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("a.isogon", ["a.isogon"]),
        ("/a:b=/b:c", ["/a", "b=/b", "c"]),
        ("bentoml:a", ["bentoml:a"]),
        ("bentoml:a:v1", ["bentoml:a:v1"]),
        ("/x:bentoml:a:v1:/y", ["/x", "bentoml:a:v1", "/y"]),
        ("m=bentoml:a:n=bentoml:b:v2", ["m=bentoml:a", "n=bentoml:b:v2"]),
        ("bentoml:a:bentoml:b:/z", ["bentoml:a", "bentoml:b", "/z"]),
        ("bentoml:a:./b.isogon", ["bentoml:a", "./b.isogon"]),
    ],
)
def test_a_list_of_places_keeps_the_colons_of_tags(text: str, places: list[str]) -> None:
    assert split_places(text) == places


def test_serve_takes_a_published_bundle_by_its_tag(exported: Path, home: Path) -> None:
    published(exported, home=home)
    port = free_port()
    with (
        (home / "log").open("wb") as log,
        subprocess.Popen(
            [
                *(sys.executable, "-m", "isogon"),
                *("serve", "bentoml:digits", "--port", str(port)),
            ],
            stdout=log,
            stderr=log,
            env=os.environ | {"BENTOML_HOME": str(home)},
        ) as process,
    ):
        try:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and process.poll() is None:
                try:
                    card = httpx.get(f"http://127.0.0.1:{port}/v1/model", trust_env=False)
                    break
                except httpx.TransportError:
                    time.sleep(0.2)
            else:
                pytest.fail((home / "log").read_text())
            assert card.json()["name"] == "digits"
        finally:
            process.terminate()
            process.wait(30)

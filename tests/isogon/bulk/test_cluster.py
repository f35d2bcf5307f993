"""The executor `ray`, on clusters of this machine; Ray is kept out of the tests' process."""

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from isogon.bulk import Summary

# A token of the tests' own: else Ray makes one, and keeps it in the home directory.
ENVIRONMENT = os.environ | {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(),
    "RAY_USAGE_STATS_ENABLED": "0",
}

CLUSTER = """
import sys
import ray

started = ray.init(
    "local", num_cpus=2, include_dashboard=False, object_store_memory=100_000_000
)
print(started.address_info["gcs_address"], flush=True)
sys.stdin.read()
"""

JOINED = """
import sys
import time

import ray

ray.init(sys.argv[1], log_to_driver=False)
while ray.cluster_resources()["CPU"] < 3:
    time.sleep(0.2)
"""

# A job that was begun with another artifact than the one a worker finds.
OTHERWISE = """
import sys
from pathlib import Path

from isogon.bulk.executors.cluster import RayExecutor
from isogon.bulk.job import BulkJob, isogon_version
from isogon.errors import UsageError
from isogon.images import open_images

bundle, images = sys.argv[1:]
job = BulkJob(
    bundle=Path(bundle), artifact="onnx/model.onnx", fingerprint="0" * 64,
    version=isogon_version(), images=open_images(images), batch=8, part=64,
    decoders=1,
)
try:
    list(RayExecutor(workers=1, address=None).run(job, [0]))
except UsageError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a running cluster; it ends with the module."""
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=ENVIRONMENT,
    )
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.communicate()


def isogon(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "isogon", "embed", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)


@pytest.mark.slow
def test_a_cluster_goes_on_with_what_processes_began_and_ends_with_the_same_bytes(
    exported: Path, mixed: Path, embedded: Summary, stopped: Path, cluster: str
) -> None:
    command = [exported, mixed, "-o", stopped, "--json", "--executor", "ray"]
    done = isogon(*command, "--address", cluster)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["continued"], summary["images"]) == (128, 254)
    assert stopped.read_bytes() == embedded.output.read_bytes()


def node_without(folder: Path, address: str) -> subprocess.Popen[str]:
    """Add a node of one core that finds `folder` empty, by a mount of its own."""
    script = f"""
        mount -t tmpfs none {folder}
        exec {sys.executable} -m ray.scripts.scripts start --block --num-cpus 1 \
            --object-store-memory 100000000 --address {address}
    """
    return subprocess.Popen(
        ["unshare", "--mount", "sh", "-ec", script],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
        env=ENVIRONMENT,
    )


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="a mount of its own wants root")
def test_a_node_that_lacks_the_images_is_named_and_others_do_its_parts(
    exported: Path, mixed: Path, embedded: Summary, cluster: str, tmp_path: Path
) -> None:
    alone = node_without(mixed / "photographs", cluster)
    try:
        joined = [sys.executable, "-c", JOINED, cluster]
        subprocess.run(joined, check=True, timeout=120, env=ENVIRONMENT)
        output = tmp_path / "out.parquet"
        done = isogon(
            exported, mixed, "-o", output, "--executor", "ray", "--address", cluster
        )
        assert done.returncode == 0, done.stderr
        assert output.read_bytes() == embedded.output.read_bytes()
    finally:
        alone.terminate()
        alone.wait(timeout=30)


@pytest.mark.slow
def test_a_worker_that_finds_another_artifact_refuses(exported: Path, mixed: Path) -> None:
    command = [sys.executable, "-c", OTHERWISE, str(exported), str(mixed)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    assert "begun with onnx/model.onnx 000000000000…, but a worker finds" in done.stdout, (
        done.stderr
    )


def test_a_cluster_that_is_not_there_is_named(
    exported: Path, mixed: Path, tmp_path: Path
) -> None:
    command = [exported, mixed, "-o", tmp_path / "out.parquet", "--executor", "ray"]
    done = isogon(*command, "--address", "127.0.0.1:1")
    assert done.returncode == 2
    assert "No Ray cluster answers at 127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr

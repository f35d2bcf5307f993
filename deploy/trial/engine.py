"""Our own Docker engine, and a base image made without an image registry.

The engine's data, socket and pid file are in one folder. It does not change this machine's
firewall and bridges: containers are reached by published ports, and builds use the host's
network.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_DOCKERFILE = Path(__file__).parents[1] / "Dockerfile"
_PACKAGES = "python3,python3-venv,ca-certificates"
# Debian's own images leave these out.
_SLIMMED = ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man")


@contextmanager
def docker_engine(folder: Path) -> Iterator[None]:
    """Run dockerd with everything in `folder`, under DOCKER_HOST of this process."""
    pid_file = folder / "docker.pid"
    address = f"unix://{folder}/docker.sock"
    with (folder / "dockerd.log").open("wb") as log:
        daemon = subprocess.Popen(
            [
                *("dockerd", "--data-root", str(folder / "data")),
                *("--exec-root", str(folder / "exec"), "--pidfile", str(pid_file)),
                *("--host", address, "--iptables=false", "--bridge=none"),
            ],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    os.environ["DOCKER_HOST"] = address
    try:
        _wait(daemon, folder / "dockerd.log")
        yield
    finally:
        daemon.terminate()
        daemon.wait(60)
        # dockerd leaves these mounted, from containers in the host's network.
        for mounted in (folder / "exec" / "netns").glob("*"):
            subprocess.run(["umount", mounted], capture_output=True)
        shutil.rmtree(folder / "exec", ignore_errors=True)
        shutil.rmtree(folder / "data", ignore_errors=True)
        del os.environ["DOCKER_HOST"]


def _wait(daemon: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(300):
        if daemon.poll() is not None:
            sys.exit(f"dockerd ended; its log ends: {log.read_text()[-600:]}")
        if subprocess.run(["docker", "info"], capture_output=True).returncode == 0:
            return
        time.sleep(0.2)
    sys.exit(f"dockerd does not answer; its log ends: {log.read_text()[-600:]}")


def import_base(archive: Path) -> str:
    """Import the Dockerfile's base image into the engine; return its name.

    Args:
        archive: a tar of its files; made by debootstrap if it is missing, and kept.
    """
    if not archive.exists():
        _bootstrap(archive)
    (name,) = re.findall(r"^ARG PYTHON=(\S+)$", _DOCKERFILE.read_text(), re.MULTILINE)
    with archive.open("rb") as content:
        command = ["docker", "import", "--change", 'CMD ["python3"]', "-", name]
        subprocess.run(command, stdin=content, check=True, stdout=subprocess.DEVNULL)
    return str(name)


def _bootstrap(archive: Path) -> None:
    """Install Debian and its Python into a folder, and pack it."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    root = archive.with_suffix(".root")
    shutil.rmtree(root, ignore_errors=True)
    policy = subprocess.run(
        ["apt-cache", "policy", "python3-venv"], check=True, capture_output=True, text=True
    ).stdout
    # As in "500 http://MIRROR/debian bookworm/main amd64 Packages".
    if (source := re.search(r"\d+ (https?://\S+) (\w[\w-]*)/main", policy)) is None:
        sys.exit("Expected a Debian mirror in `apt-cache policy python3-venv`, found none.")
    mirror, release = source.groups()
    subprocess.run(
        [
            "debootstrap",
            "--variant=minbase",
            f"--include={_PACKAGES}",
            release,
            root,
            mirror,
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    for name in _SLIMMED:
        shutil.rmtree(root / name)
        (root / name).mkdir()
    subprocess.run(["tar", "--create", "-C", root, "--file", archive, "."], check=True)
    shutil.rmtree(root)

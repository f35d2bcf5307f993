"""Build the service's image: `python deploy/image.py BUNDLE --tag isogon:latest`.

There are two builds: the service without a bundle (Dockerfile), and on top of it the bundle
(bundle.Dockerfile). Both use this machine's pip configuration.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from isogon.bundle import Bundle, vouched_artifact
from isogon.errors import IsogonError

_HERE = Path(__file__).resolve().parent
_ROOT = _HERE.parent
_CERTIFICATES = "/run/secrets/certificates"  # where the Dockerfile mounts the secret
# The extras install CUDA's libraries. Without them ONNX Runtime falls back to the CPU.
_WHEELS = {"cpu": "onnxruntime", "gpu": "onnxruntime-gpu[cuda,cudnn]"}


def build_service(tag: str, *, variant: str, options: list[str]) -> None:
    """Build the image without a bundle.

    Args:
        tag: its name.
        variant: "cpu" or "gpu".
        options: of `docker build`, before those given here.
    """
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    with _pip_secrets() as secrets:
        _docker_build(
            *options,
            *secrets,
            *("--build-arg", f"VERSION={project['version']}"),
            *("--build-arg", f"ONNXRUNTIME={_WHEELS[variant]}"),
            *("--file", str(_HERE / "Dockerfile"), "--tag", tag, str(_ROOT)),
        )


def build_with_bundle(path: Path, service: str, tag: str) -> None:
    """Add a bundle to the image `service`, under another tag.

    Raises:
        BundleError: the bundle is damaged, or nothing vouches for its ONNX file.
    """
    bundle = Bundle.open(path)
    _docker_build(
        *("--build-arg", f"ISOGON={service}"),
        *("--build-arg", f"BUNDLE={bundle.manifest.name}"),
        *("--build-arg", f"FINGERPRINT={vouched_artifact(bundle).fingerprint}"),
        *("--file", str(_HERE / "bundle.Dockerfile"), "--tag", tag, str(path)),
    )


def docker() -> str:
    """Return the first `docker` on PATH that can build with BuildKit.

    From Docker 23 on, this needs the plugin buildx.
    """
    for folder in os.environ["PATH"].split(os.pathsep):
        found = shutil.which("docker", path=folder)
        if found and _has_buildkit(found):
            return found
    sys.exit(
        "Expected `docker` with BuildKit on PATH: Docker 20 to 22, or 23 and later with "
        "its plugin buildx. Install docker.io, or docker-ce with docker-buildx-plugin."
    )


def _has_buildkit(command: str) -> bool:
    asked = [command, "version", "--format", "{{.Client.Version}}"]
    version = subprocess.run(asked, capture_output=True, text=True).stdout
    if not version:
        return False
    if 20 <= int(version.partition(".")[0]) < 23:
        return True
    return (
        subprocess.run([command, "buildx", "version"], capture_output=True).returncode == 0
    )


def _docker_build(*arguments: str) -> None:
    environment = os.environ | {"DOCKER_BUILDKIT": "1"}
    subprocess.run([docker(), "build", *arguments], check=True, env=environment)


@contextmanager
def _pip_secrets() -> Iterator[list[str]]:
    """Yield options that give pip's configuration to the build, but to no layer."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    settings = {}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        settings[name.split(".")[-1]] = value.strip("'")
    with TemporaryDirectory() as folder:
        file = Path(folder) / "pip.conf"
        secrets = ["--secret", f"id=pip.conf,src={file}"]
        if "cert" in settings:
            secrets += ["--secret", f"id=certificates,src={settings['cert']}"]
            settings["cert"] = _CERTIFICATES
        lines = ["[global]", *(f"{name} = {value}" for name, value in settings.items())]
        file.write_text("\n".join(lines) + "\n")
        yield secrets


def main() -> None:
    """Build what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, nargs="?", help="none: mount it at /bundle")
    parser.add_argument("--tag", default="isogon:latest")
    parser.add_argument("--gpu", action="store_true", help="with CUDA's libraries")
    parser.add_argument("--network", help="of the build, such as `host`")
    given = parser.parse_args()
    service = given.tag if given.bundle is None else f"{given.tag}-service"
    options = ["--network", given.network] if given.network else []
    build_service(service, variant="gpu" if given.gpu else "cpu", options=options)
    if given.bundle is not None:
        build_with_bundle(given.bundle, service, given.tag)


if __name__ == "__main__":
    try:
        main()
    except IsogonError as error:
        sys.exit(str(error))

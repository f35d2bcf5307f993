"""`make deployed`: build the image, run it, send requests and attacks, check the alerts.

`python -m deploy.trial.deployed BUNDLE` starts its own Docker engine and Prometheus, and
makes the base image. The result goes to docs/deployed.md.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from deploy.image import build_service, build_with_bundle
from deploy.trial import attacks
from deploy.trial.engine import docker_engine, import_base
from deploy.trial.findings import Findings
from deploy.trial.needs import require
from deploy.trial.prometheus import (
    Prometheus,
    alert_names,
    dashboard_expressions,
    prometheus,
    promtool,
)
from serving.process import free_port

_ROOT = Path(__file__).parents[2]
_COMPOSE = _ROOT / "deploy" / "compose.yaml"
_SERVICE, _IMAGE = "isogon:trial-service", "isogon:trial"
_MIB = 2**20
_HEALTH = 5  # seconds until compose's health check fails
_COMMANDS = {
    "dockerd": "Debian's docker.io",
    "docker": "Debian's docker.io",
    "debootstrap": "Debian's debootstrap",
    "prometheus": "Debian's prometheus",
    "promtool": "Debian's prometheus",
}


def docker(*arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    """Run the Docker command."""
    return subprocess.run(
        ["docker", *arguments], check=check, capture_output=True, text=True
    )


def inspected(name: str) -> dict[str, Any]:
    """Return what Docker knows of an image or a container."""
    found: dict[str, Any] = json.loads(docker("inspect", name).stdout)[0]
    return found


def compose(*arguments: str) -> str:
    """Run docker-compose, or Docker's plugin, on the compose file as it is shipped."""
    program = (
        ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]
    )
    command = [*program, "--project-name", "isogon-trial", "--file", str(_COMPOSE)]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"compose {' '.join(arguments)}: {done.stderr}")
    return done.stdout


def until_ready(url: str, container: str) -> None:
    """Return when the service answers; raise with its log if it ended."""
    for _ in range(1200):
        with suppress(httpx.TransportError):
            if httpx.get(f"{url}/readyz", trust_env=False).status_code == 200:
                return
        if inspected(container)["State"]["Status"] == "exited":
            break
        time.sleep(0.25)
    log = docker("logs", container, check=False)
    raise RuntimeError(f"not ready: {(log.stdout + log.stderr)[-300:]}")


def build(found: Findings, bundle: Path) -> None:
    """Build both images and look at what is inside."""
    base = import_base(_ROOT / ".deployed" / "base.tar")
    with found.trying("the image is built, small, without compiler, git or pip") as row:
        build_service(_SERVICE, variant="cpu", options=["--network", "host"])
        build_with_bundle(bundle, _SERVICE, _IMAGE)
        sizes = [inspected(name)["Size"] / 1e6 for name in (base, _SERVICE, _IMAGE)]
        tools = "for t in gcc cc g++ make git pip; do command -v $t; done; true"
        options = ("--rm", "--network", "none", "--entrypoint", "sh")
        there = docker("run", *options, _IMAGE, "-c", tools).stdout
        row.held = not there.strip() and sizes[1] < 600
        row.seen = (
            f"{sizes[1]:.0f} MB, of them {sizes[0]:.0f} the base; "
            f"with the bundle {sizes[2]:.0f}; {there.split() or 'no such tool'}"
        )
    with found.trying("`ISOGON_DEVICE=cuda` without a GPU ends in one line") as row:
        options = ("--rm", "--network", "none", "--env", "ISOGON_DEVICE=cuda")
        done = docker("run", *options, _IMAGE, check=False)
        lines = done.stderr.strip().splitlines()
        row.held = done.returncode != 0 and "needs an NVIDIA GPU" in done.stderr
        row.seen = f"status {done.returncode}, {len(lines)} lines: {lines[-1][:120]}"


@contextmanager
def brought_up(found: Findings, port: int) -> Iterator[str]:
    """Bring compose's service up; yield its container's name."""
    os.environ |= {"ISOGON_IMAGE": _IMAGE, "ISOGON_PORT": str(port)}
    try:
        with found.trying(
            "compose brings it up: healthy, read-only, user 1034, limits"
        ) as row:
            started = time.monotonic()
            compose("up", "--detach", "--no-build", "isogon")
            (name,) = compose("ps", "--quiet", "isogon").split()
            until_ready(f"http://127.0.0.1:{port}", name)
            ready = time.monotonic() - started
            while (seen := inspected(name))["State"]["Health"]["Status"] == "starting":
                time.sleep(0.5)
            host = seen["HostConfig"]
            refused = docker("exec", name, "touch", "/x", check=False).stderr
            row.held = (
                seen["State"]["Health"]["Status"] == "healthy"
                and host["ReadonlyRootfs"]
                and seen["Config"]["User"] == "1034:1034"
                and (host["Memory"], host["NanoCpus"]) == (2 * 2**30, 2 * 10**9)
                and host["CapDrop"] == ["ALL"]
                and "Read-only file system" in refused
            )
            row.seen = (
                f"answers after {ready:.0f} s, {seen['State']['Health']['Status']}; "
                f"2 GiB, 2 CPUs, no capabilities; `touch /x` is refused"
            )
        if not row.held:
            found.write()
            sys.exit("Without it there is nothing to ask.")
        yield name
    finally:
        with suppress(RuntimeError):
            compose("down", "--volumes")


def ask(found: Findings, url: str) -> None:
    """Request embeddings and the model card, and compare the metrics' labels."""
    with found.trying("it embeds, and says what it is") as row:
        answer = httpx.post(
            f"{url}/v1/embed",
            files={"images": attacks.photograph(512)},
            trust_env=False,
            timeout=60,
        )
        card = httpx.get(f"{url}/v1/model", trust_env=False)
        live = httpx.get(f"{url}/livez", trust_env=False)
        statuses = [answer.status_code, card.status_code, live.status_code]
        row.held = statuses == [200, 200, 200]
        row.seen = f"statuses {statuses}, width {answer.json().get('width')}"
    with found.trying("labels, `isogon_build_info` and `isogon_model_info` agree") as row:
        labels = inspected(_IMAGE)["Config"]["Labels"]
        families = text_string_to_metric_families(
            httpx.get(f"{url}/metrics", trust_env=False).text
        )
        told = {s.name: s.labels for family in families for s in family.samples}
        version = told["isogon_build_info"]["version"]
        fingerprint = told["isogon_model_info"]["fingerprint"]
        row.held = (
            version == labels["org.opencontainers.image.version"]
            and fingerprint == labels["isogon.fingerprint"]
        )
        row.seen = f"version {version}, fingerprint {fingerprint[:12]}…"


def resident(container: str) -> float:
    """Return the resident memory of the container's largest process, in MiB."""
    sizes = []
    for pid in docker("top", container, "-o", "pid").stdout.split()[1:]:
        with suppress(FileNotFoundError, ProcessLookupError):  # a health check that ended
            sizes.append(Path(f"/proc/{pid}/status").read_text())
    lines = [line for text in sizes for line in text.splitlines() if "VmRSS" in line]
    return max(int(line.split()[1]) for line in lines) / 1024


def give_back(found: Findings, url: str, container: str) -> None:
    """Send large photographs, several at once, and measure the memory afterwards."""
    with found.trying("memory is given back after large uploads") as row:
        before = resident(container)
        large = attacks.photograph(5000)
        with ThreadPoolExecutor(4) as senders:
            answers = list(senders.map(lambda _: _embed(url, large), range(12)))
        time.sleep(3)
        after = resident(container)
        row.held = set(answers) <= {200, 429} and after - before < 200
        row.seen = (
            f"{before:.0f} MiB before, {after:.0f} MiB 3 s after 12 photographs of 25 "
            f"megapixels; statuses {_counted(answers)}"
        )


def _embed(url: str, image: bytes, **options: Any) -> int:
    """Return the status of a request with one image; 0: not answered."""
    try:
        return httpx.post(
            f"{url}/v1/embed",
            files={"images": image},
            trust_env=False,
            timeout=90,
            **options,
        ).status_code
    except httpx.TransportError:
        return 0


def _counted(statuses: list[int]) -> str:
    found = {status: statuses.count(status) for status in sorted(set(statuses))}
    return ", ".join(f"{count} x {status or 'none'}" for status, count in found.items())


def attack(found: Findings, url: str, port: int, container: str) -> None:
    """Send attacks that once stopped the service for all clients."""
    before = _restarts(container, 0)
    with found.trying("two WebPs of 34 bytes, each of 8000 x 8000 pixels") as row:
        with attacks.others(url) as other, ThreadPoolExecutor(2) as senders:
            answers = list(senders.map(lambda _: _embed(url, attacks.BOMB), range(2)))
        fell = _restarts(container, before)
        row.held = 0 not in answers and not fell and other.longest < _HEALTH
        row.seen = f"statuses {_counted(answers)}; {fell} restarts; {other}"
    until_ready(url, container)
    before = _restarts(container, 0)
    with found.trying("JPEGs with a scan stored 190 times: 5 megapixels, then 1") as row:
        large, small = (attacks.repeated_scans(side, 190) for side in (2300, 1100))
        with attacks.others(url) as other:
            answers = [_embed(url, large), _embed(url, small)]
        fell = _restarts(container, before)
        row.held = answers == [413, 200] and not fell and other.longest < _HEALTH
        row.seen = (
            f"{len(large) / _MIB:.0f} and {len(small) / _MIB:.0f} MiB: statuses "
            f"{_counted(answers)}; {fell} restarts; {other}"
        )
    until_ready(url, container)
    before = _restarts(container, 0)
    with found.trying("a header that does not end") as row:
        with attacks.others(url) as other:
            ended = attacks.endless_header(port, 10)
        fell = _restarts(container, before)
        row.held = other.longest < 2 and not other.failed and not fell
        row.seen = f"{ended}; {other}"
    until_ready(url, container)
    before = _restarts(container, 0)
    with found.trying("bodies that stop, until none is taken any more") as row:
        photo = attacks.photograph(2000)
        # Large bodies, and smaller ones to fill the remaining room.
        sizes = [40 * _MIB] * 7 + [4 * _MIB] * 10 + [_MIB // 2] * 10 + [_MIB // 16] * 10
        with attacks.slow_bodies(port, sizes):
            answers = [_embed(url, photo) for _ in range(10)]
        fell = _restarts(container, before)
        row.held = answers.count(200) == 10 and not fell
        row.seen = f"meanwhile ten good requests got {_counted(answers)}; {fell} restarts"
    until_ready(url, container)


def fill(found: Findings, url: str, container: str) -> None:
    """Fill /tmp, and send bodies that are too large for the form parser's memory."""
    with found.trying("no request is written to disk; a full /tmp does no harm") as row:
        files = docker("exec", container, "find", "/tmp", "-type", "f").stdout.split()
        filling = ("dd", "if=/dev/zero", "of=/tmp/full", "bs=1M")
        filled = docker("exec", container, *filling, check=False).stderr
        left = docker("exec", container, "df", "--output=avail", "/tmp").stdout.split()[-1]
        large = attacks.photograph(2000, "BMP")
        answers = [_embed(url, large) for _ in range(4)]
        docker("exec", container, "rm", "/tmp/full")
        row.held = answers == [200] * 4 and left == "0" and not files
        row.seen = (
            f"{len(files)} files in /tmp after the attacks; with {left} bytes left "
            f"({filled.splitlines()[0].rpartition(': ')[2]}) forms of "
            f"{len(large) / _MIB:.1f} MiB got {_counted(answers)}"
        )


def _restarts(container: str, before: int) -> int:
    """Return how often Docker has restarted the container, minus `before`."""
    time.sleep(1)
    return int(inspected(container)["RestartCount"]) - before


def stop(found: Findings, container: str) -> None:
    """Stop the container as compose does."""
    with found.trying("it ends by itself at SIGTERM") as row:
        started = time.monotonic()
        docker("stop", "--time", "45", container)
        status = inspected(container)["State"]["ExitCode"]
        took = time.monotonic() - started
        row.held = status == 0 and took < 40
        row.seen = f"status {status} after {took:.1f} s"


def watch(found: Findings, folder: Path) -> None:
    """Scrape an overloaded service: every alert must fire."""
    with found.trying("`promtool check rules` and `test rules`") as row:
        row.seen = promtool()
        row.held = True
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    settings = {
        "ISOGON_QUEUE": "2",
        "ISOGON_MAX_IMAGES": "2",
        "ISOGON_DEADLINE": "1",
        "ISOGON_DRIFT_WINDOW": "10",
        "ISOGON_DRIFT_RUN_LENGTH": "1000",
    }
    environment = [
        option for pair in settings.items() for option in ("--env", "=".join(pair))
    ]
    docker(
        *("run", "--detach", "--name", "watched", "--network", "host", "--read-only"),
        *("--tmpfs", "/tmp", *environment, _IMAGE),
        *("serve", "/bundle", "--host", "127.0.0.1", "--port", str(port)),
    )
    try:
        until_ready(url, "watched")
        with prometheus(folder, f"127.0.0.1:{port}") as asked:
            fired = _overload(url, asked)
            _run_dashboard(found, asked)
            docker("stop", "watched")
            _until(lambda: {"IsogonDown", "IsogonMissing"} <= asked.firing(), 60)
            fired |= asked.firing()
            with found.trying("each alert fires in a real Prometheus") as row:
                silent = alert_names() - fired
                broken = asked.unhealthy_rules()
                row.held = not silent and not broken
                row.seen = f"fired: {', '.join(sorted(fired))}; silent: {sorted(silent)}"
    finally:
        docker("rm", "--force", "watched", check=False)


def _overload(url: str, asked: Prometheus) -> set[str]:
    """Send noise, too many and too slow requests; return the alerts that fired."""
    ended = threading.Event()
    large = attacks.photograph(5000)
    for seed in range(40):
        _embed(url, attacks.noise(seed))

    def crowd() -> None:
        while not ended.is_set():
            _embed(url, large)

    def slow() -> None:
        def trickled() -> Iterator[bytes]:
            yield attacks.noise(0)[:1000]
            time.sleep(3)
            yield attacks.noise(0)[1000:]

        while not ended.is_set():
            with suppress(httpx.TransportError):
                headers = {"Content-Type": "image/png"}
                httpx.post(f"{url}/v1/embed", content=trickled(), headers=headers)

    fired: set[str] = set()
    wanted = alert_names() - {"IsogonDown", "IsogonMissing"}

    def all_fired() -> bool:
        fired.update(asked.firing())
        return wanted <= fired

    threads = [threading.Thread(target=work) for work in [crowd] * 6 + [slow] * 2]
    for thread in threads:
        thread.start()
    try:
        _until(all_fired, 240)
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    return fired


def _run_dashboard(found: Findings, asked: Prometheus) -> None:
    with found.trying("every expression of the dashboard has a value after traffic") as row:
        expressions = dashboard_expressions()
        empty = [one for one in expressions if not asked.result(one)]
        row.held = not empty
        row.seen = f"{len(expressions) - len(empty)} of {len(expressions)}"
        if empty:
            row.seen += f"; none: {'; '.join(empty)[:200]}"


def _until(condition: Callable[[], bool], seconds: float) -> None:
    """Return when the condition holds, or after `seconds`."""
    ends = time.monotonic() + seconds
    while not condition() and time.monotonic() < ends:
        time.sleep(0.5)


def main() -> None:
    """Try everything, write the table, and exit with 1 if a promise did not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, nargs="?", default=Path("quickstart.isogon"))
    bundle = parser.parse_args().bundle.resolve()
    require(_COMMANDS, {bundle: "`make quickstart` makes it"})
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Ended."))  # cleans up
    found = Findings("make deployed")
    with TemporaryDirectory(prefix="isogon-deployed-") as name:
        folder = Path(name)
        with docker_engine(folder):
            version = docker("version", "--format", "{{.Server.Version}}").stdout.strip()
            found.facts.append(f"Docker's engine {version}.")
            build(found, bundle)
            port = free_port()
            url = f"http://127.0.0.1:{port}"
            with brought_up(found, port) as container:
                ask(found, url)
                give_back(found, url, container)
                attack(found, url, port, container)
                fill(found, url, container)
                stop(found, container)
            watch(found, folder)
    found.write()
    sys.exit(not all(row.held for row in found.rows))


if __name__ == "__main__":
    main()

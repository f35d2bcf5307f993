"""Two hosts on one machine: network namespaces joined by a veth pair.

Each has its own name, address, loopback and mounts. They share processors and disk.
"""

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

NETWORK = "10.77.0"


@dataclass(frozen=True, kw_only=True)
class Host:
    """A network namespace, with its own mounts."""

    name: str
    address: str
    device: str  # its end of the pair
    mounts: Mapping[Path, Path]  # mount point: folder

    def start(
        self, command: list[str], log: Path, environment: Mapping[str, str]
    ) -> "subprocess.Popen[bytes]":
        """Start a command on the host, with a log of its own."""
        binds = "".join(
            f"mount --bind {here} {seen}; " for seen, here in self.mounts.items()
        )
        inside = f'hostname {self.name}; {binds}exec "$@"'
        with log.open("ab") as output:
            return subprocess.Popen(
                [
                    *("ip", "netns", "exec", self.name, "unshare", "--mount", "--uts"),
                    *("sh", "-ec", inside, "sh", *command),
                ],
                env=os.environ | environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def kill(self) -> None:
        """Kill every process of the host at once, as a power failure would."""
        listed = _ip("netns", "pids", self.name)
        for pid in map(int, listed.split()):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def connect(self, *, up: bool) -> None:
        """Bring the network link up or down."""
        _ip("-n", self.name, "link", "set", self.device, "up" if up else "down")


@contextmanager
def two_hosts(
    folder: Path, mounts: Mapping[str, Mapping[Path, Path]]
) -> Iterator[list[Host]]:
    """Yield two connected hosts; remove both afterwards.

    Args:
        folder: for the file mounted as /etc/hosts.
        mounts: of each host, by its name: mount point and folder.
    """
    names = folder / "hosts"
    hosts = [
        Host(
            name=name,
            address=f"{NETWORK}.{number}",
            device=f"{name}-link",
            mounts={Path("/etc/hosts"): names, **files},
        )
        for number, (name, files) in enumerate(mounts.items(), start=1)
    ]
    lines = ["127.0.0.1 localhost", *(f"{host.address} {host.name}" for host in hosts)]
    names.write_text("\n".join(lines) + "\n")
    try:
        for host in hosts:
            _ip("netns", "add", host.name)
        first, second = hosts
        pair = ("type", "veth", "peer", "name", second.device, "netns", second.name)
        _ip("-n", first.name, "link", "add", first.device, *pair)
        for host in hosts:
            _ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", host.device)
            _ip("-n", host.name, "link", "set", "lo", "up")
            host.connect(up=True)
        yield hosts
    finally:
        existing = _ip("netns", "list").split()
        for host in hosts:
            if host.name in existing:
                host.kill()
                _ip("netns", "delete", host.name)  # this also deletes its end of the pair


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
    return done.stdout

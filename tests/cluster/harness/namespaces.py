"""Two hosts joined by a cable: network namespaces, for scenarios in which addresses matter."""

from __future__ import annotations

import ctypes
import itertools
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)
NUMBERS = itertools.count(1)


class Host:
    """One end of the cable: a namespace with loopback and the interface `cable`."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address
        self.hosts_file = Path("/etc/netns") / name / "hosts"

    def ip(self, *words: str) -> None:
        """An `ip` command on this host."""
        run("ip", "-n", self.name, *words)

    def pull_cable(self) -> None:
        """Nothing passes any more, and nobody is told."""
        self.ip("link", "set", "cable", "down")

    def plug_cable(self) -> None:
        self.ip("link", "set", "cable", "up")

    def move(self, address: str) -> None:
        """Another address in place of the present one; connections to that one are dead."""
        self.ip("addr", "del", f"{self.address}/24", "dev", "cable")
        self.ip("addr", "add", f"{address}/24", "dev", "cable")
        self.address = address

    def know(self, name: str, address: str) -> None:
        """What this host resolves `name` to."""
        self.hosts_file.write_text(f"127.0.0.1 localhost\n{address} {name}\n")

    @property
    def prefix(self) -> list[str]:
        """What a command begins with that is to run on this host."""
        return ["ip", "netns", "exec", self.name]

    def connect(self, address: tuple[str, int], timeout: Any = None, source: Any = None) -> socket.socket:
        """As socket.create_connection, on this host. A socket stays in the namespace that it was made in."""
        with open("/proc/self/ns/net", "rb") as own, open(f"/var/run/netns/{self.name}", "rb") as other:
            enter(other.fileno())
            try:
                made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            finally:
                enter(own.fileno())
        made.settimeout(timeout)
        try:
            made.connect(address)
        except OSError:
            made.close()
            raise
        return made


def enter(descriptor: int) -> None:
    if LIBC.setns(descriptor, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, text=True)


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Namespaces 10.77.0.1 and 10.77.0.2, gone at the end; skips the test where they are not allowed."""
    number = f"{os.getpid()}-{next(NUMBERS)}"
    hosts = Host(f"vz{number}a", "10.77.0.1"), Host(f"vz{number}b", "10.77.0.2")
    made = subprocess.run(["ip", "netns", "add", hosts[0].name], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"network namespaces are not allowed here: {made.stderr.strip()}")
    try:
        run("ip", "netns", "add", hosts[1].name)
        hosts[0].ip("link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", hosts[1].name)
        for host in hosts:
            host.hosts_file.parent.mkdir(parents=True)
            host.hosts_file.write_text("127.0.0.1 localhost\n")
            host.ip("link", "set", "lo", "up")
            host.ip("addr", "add", f"{host.address}/24", "dev", "cable")
            host.ip("link", "set", "cable", "up")
        yield hosts
    finally:
        for host in hosts:
            subprocess.run(["ip", "netns", "del", host.name], capture_output=True, check=False)
            host.hosts_file.unlink(missing_ok=True)
            if host.hosts_file.parent.exists():
                host.hosts_file.parent.rmdir()

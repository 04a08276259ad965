"""The runbooks of docs/OPERATIONS.md are true: their commands are run as they stand there, in their order.

Only the machines are stood in for: `ssh node-N` runs a command with the paths of that node, `systemctl` is
scripts/start and scripts/stop.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.harness import Answer, Client, NotSent, free_port, wait_until
from tests.cluster.harness.counters import syncs_of
from tests.cluster.harness.node import ROOT, SMALL_AND_QUICK, clean_environment, merged

BLOCK = re.compile(r"^```(sh|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CHAPTER = re.compile(r"^## Runbooks\n(.*?)(?=^## )", re.MULTILINE | re.DOTALL)
RUNBOOK = re.compile(r"^### (.*?)\n(.*?)(?=^### |\Z)", re.MULTILINE | re.DOTALL)
NAMES = ("node-1", "node-2", "node-3", "node-4")
SECRET = "the secret of before, which is long enough\n"

SSH = """#!/bin/sh
MACHINE=$1
shift
export MACHINE
commands=$(printf '%s' "$*" | sed "s#/\\(var/lib\\|etc\\)/vectorizer#$FLEET/$MACHINE/\\1/vectorizer#g")
exec sh -eu -c "$commands"
"""
SYSTEMCTL = """#!/bin/sh
set -eu
[ "$2" = vectorizer ]
case $1 in
start) ;;
stop | restart) scripts/stop "$MACHINE" ;;
esac
[ "$1" = stop ] || scripts/start --background "$MACHINE" --config "$FLEET/$MACHINE/etc/vectorizer/config.yml"
"""


@dataclass(frozen=True)
class Step:
    """A block of commands, and lines that its output has in this order."""

    commands: str
    shown: tuple[str, ...]


def runbooks() -> dict[str, list[Step]]:
    """The steps of each runbook, by title."""
    chapter = CHAPTER.search((ROOT / "docs/OPERATIONS.md").read_text())
    assert chapter is not None
    found: dict[str, list[Step]] = {}
    for title, text in RUNBOOK.findall(chapter.group(1)):
        steps = found[title] = []
        for kind, content in BLOCK.findall(text):
            if kind == "sh":
                steps.append(Step(content, ()))
            else:
                steps[-1] = Step(steps[-1].commands, tuple(content.splitlines()))
    return found


class Fleet:
    """Machines with one node each, under one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.rest = {name: Client("127.0.0.1", free_port()) for name in NAMES}
        self.replication = {name: f"127.0.0.1:{free_port()}" for name in NAMES}
        self.addresses = {
            **{f"{name}:15002": f"127.0.0.1:{client.port}" for name, client in self.rest.items()},
            **{f"{name}:7001": address for name, address in self.replication.items()},
        }
        programs = {
            "ssh": SSH,
            "systemctl": SYSTEMCTL,
            "vectorizer": f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -P -m vectorizer "$@"\n',
        }
        for name, text in programs.items():
            path = self._made("bin") / name
            path.write_text(text)
            path.chmod(0o755)
        self._made("backup")
        for name in NAMES:
            self._configure(name)
        self.environment = {
            **clean_environment(),
            "PATH": f"{directory / 'bin'}:{os.environ['PATH']}",
            "FLEET": str(directory),
            "VECTORIZER_RUN_DIR": str(directory / "run"),
        }

    def _made(self, *parts: str) -> Path:
        path = self.directory.joinpath(*parts)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def _configure(self, name: str) -> None:
        etc = self._made(name, "etc/vectorizer")
        self._made(name, "var/lib")
        own: dict[str, dict[str, Any]] = {
            "server": {"port": self.rest[name].port},
            "storage": {"data_dir": str(self.directory / name / "var/lib/vectorizer")},
            "security": {
                "keys_file": str(etc / "keys"),
                "replication_secret_file": str(etc / "replication.secret"),
            },
            "replication": {"bind_address": self.replication[name], "role": "master"},
        }
        if name != "node-1":
            own["replication"].update(role="replica", master_address=self.replication["node-1"])
        (etc / "replication.secret").write_text(SECRET)
        (etc / "config.yml").write_text(yaml.safe_dump(merged(SMALL_AND_QUICK, own)))

    def run(self, commands: str) -> str:
        """What commands of the document print, with its addresses; they must succeed."""
        for shown, real in self.addresses.items():
            commands = commands.replace(shown, real)
        commands = commands.replace("/backup/", f"{self.directory}/backup/")
        ran = subprocess.run(
            ["sh", "-eu", "-c", commands],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env=self.environment,
            timeout=50,
        )
        told = ran.stdout
        for shown, real in self.addresses.items():
            told = told.replace(real, shown)
        told = re.sub(rf"{re.escape(str(self.directory))}(/node-\d(?=/))?", "", told)
        assert ran.returncode == 0, f"{commands}\n{told}"
        return told

    # -- how the nodes stand --------------------------------------------------------------------------------

    def at_home(self) -> None:
        """As a runbook finds it: node-1 the master, node-2 and node-3 its replicas, node-4 a bare machine."""
        self.run("ssh node-4 systemctl stop vectorizer")
        shutil.rmtree(self.directory / "node-4/var/lib/vectorizer", ignore_errors=True)
        secret = "/etc/vectorizer/replication.secret"
        self.run(f"ssh node-1 cat {secret} | ssh node-4 'cat > {secret}'")
        if not self.is_primary("node-1"):
            [master] = [name for name in NAMES[1:] if self.is_primary(name)]
            self.run(f"scripts/switchover --yes http://{master}:15002 --to node-1:15002")
        self.settled("node-1", "node-2", "node-3")

    def start(self) -> None:
        """Start the cluster and give it something to hold."""
        self.run("for n in 1 2 3; do ssh node-$n systemctl start vectorizer & done; wait")
        wait_until(lambda: self.is_primary("node-1"), "node-1 takes writes")
        self.rest["node-1"].post("/collections", {"name": "things", "dimension": 2, "metric": "cosine"})
        self.write("first")

    def stop(self) -> None:
        """End every node."""
        self.run("for n in 1 2 3 4; do ssh node-$n systemctl stop vectorizer & done; wait")

    def is_primary(self, name: str) -> bool:
        """Whether that node takes writes."""
        return self.answer(name, "/primary").status == 200

    def answer(self, name: str, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        """Of a node that may have been restarted since the last request."""
        self.rest[name].close()
        try:
            return self.rest[name].request("GET", path, headers=headers)
        except NotSent:
            return Answer(0, None, {})

    def write(self, vector_id: str) -> dict[str, Any]:
        """Write one vector to whichever node takes writes; its answer."""
        [name] = [name for name in NAMES if self.is_primary(name)]
        vectors = {"vectors": [{"id": vector_id, "vector": [1, 2]}]}
        answer: dict[str, Any] = self.rest[name].post("/collections/things/vectors", vectors)
        return answer

    def holds(self, name: str, vector_id: str) -> bool:
        """Whether a node has that vector."""
        return self.answer(name, f"/collections/things/vectors/{vector_id}").status == 200

    def node_id(self, name: str) -> str:
        """The identity of a node that runs."""
        told: str = self.answer(name, "/replication/status").body["node_id"]
        return told

    def settled(self, *names: str) -> None:
        """Wait until these nodes hold the same at one offset, and all but the first follow."""

        def all_equal() -> bool:
            digests = [self.answer(name, "/collections/things/digest") for name in names]
            states = [self.answer(name, "/replication/status") for name in names]
            if any(answer.status != 200 for answer in (*digests, *states)):
                return False
            links = [(answer.body.get("link") or {}).get("state") for answer in states[1:]]
            held = {
                (one.body["digest"], two.body["offset"]) for one, two in zip(digests, states, strict=True)
            }
            return len(held) == 1 and set(links) == {"streaming"}

        wait_until(all_equal, f"{names} hold the same")

    def follow_runbook(self, title: str) -> None:
        """Run its commands, and look for the lines that are shown below them."""
        for step in runbooks()[title]:
            told = self.run(step.commands)
            print(f"{step.commands}\n----\n{told}")
            lines = iter(told.splitlines())
            for shown in step.shown:
                pattern = shown_as_pattern(shown)
                assert any(pattern.fullmatch(line.strip()) for line in lines), (
                    f"{shown!r} is not told in order:\n{told}"
                )


def shown_as_pattern(line: str) -> re.Pattern[str]:
    """`…` stands for anything, and blanks for any number of them."""
    parts = (r"\s+".join(map(re.escape, part.split(" "))) for part in line.split("…"))
    return re.compile(".*".join(parts).replace(r"\s+\s+", r"\s+"))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    made = Fleet(tmp_path_factory.mktemp("fleet"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def fleet(shared: Fleet) -> Fleet:
    shared.at_home()
    return shared


@pytest.fixture
def backup(fleet: Fleet) -> Fleet:
    """With the backup that the first of these tests makes, and something written since."""
    if not (fleet.directory / "backup/monday").exists():
        fleet.write("before the backup")
        fleet.settled("node-1", "node-2", "node-3")
        fleet.follow_runbook("Backup")
    fleet.write("after the backup")
    fleet.settled("node-1", "node-2", "node-3")
    return fleet


def test_each_runbook_has_commands_and_says_what_they_tell() -> None:
    assert set(runbooks()) == {
        "Failover",
        "Switchover",
        "Adding a replica",
        "Rebuilding a replica",
        "Rolling upgrade",
        "Backup",
        "Restoring a replica from its own backup",
        "Restoring a new replica from a backup",
        "Restoring the whole cluster",
        "Sizing the log",
        "Rotating the replication secret",
        "Rotating an API key",
    }
    for title, steps in runbooks().items():
        assert steps, title
        assert all(step.shown for step in steps), title


@pytest.mark.needs("curl")
@pytest.mark.parametrize("title", ["Failover", "Switchover"])
def test_another_master(fleet: Fleet, title: str) -> None:
    fleet.follow_runbook(title)
    assert fleet.is_primary("node-2")
    fleet.write(title)
    fleet.settled("node-2", "node-1", "node-3")


@pytest.mark.needs("curl")
def test_adding_a_replica(fleet: Fleet) -> None:
    fleet.follow_runbook("Adding a replica")
    fleet.settled("node-1", "node-2", "node-3", "node-4")


@pytest.mark.needs("curl")
@pytest.mark.parametrize("title", ["Rebuilding a replica", "Sizing the log"])
def test_with_the_same_roles_afterwards(fleet: Fleet, title: str) -> None:
    fleet.follow_runbook(title)
    fleet.write(title)
    fleet.settled("node-1", "node-2", "node-3")


@pytest.mark.needs("curl")
def test_rolling_upgrade(fleet: Fleet) -> None:
    fleet.follow_runbook("Rolling upgrade")
    fleet.write("upgraded")
    fleet.settled("node-2", "node-1", "node-3")


@pytest.mark.needs("curl")
def test_restoring_a_replica_from_its_own_backup(backup: Fleet) -> None:
    before = backup.node_id("node-3")
    backup.follow_runbook("Restoring a replica from its own backup")
    backup.settled("node-1", "node-2", "node-3")
    assert backup.node_id("node-3") == before
    assert syncs_of(backup.answer("node-3", "/replication/status").body).full == 0


@pytest.mark.needs("curl")
def test_restoring_a_new_replica_from_a_backup(backup: Fleet) -> None:
    backup.follow_runbook("Restoring a new replica from a backup")
    backup.settled("node-1", "node-2", "node-3", "node-4")
    assert backup.node_id("node-4") != backup.node_id("node-3")
    assert syncs_of(backup.answer("node-4", "/replication/status").body).full == 0


@pytest.mark.needs("curl")
def test_restoring_the_whole_cluster(backup: Fleet) -> None:
    """After changes of master since the backup, of which the restored nodes must not hear."""
    backup.run("scripts/switchover --yes http://node-1:15002 --to node-2:15002")
    backup.at_home()
    lost = backup.write("given up")
    token = f"min_offset={lost['offset']}&replication_id={lost['replication_id']}"
    backup.follow_runbook("Restoring the whole cluster")
    backup.write("afterwards")
    backup.settled("node-1", "node-2", "node-3")
    for name in NAMES[:3]:
        assert backup.holds(name, "before%20the%20backup")
        assert not backup.holds(name, "given%20up")
        told = backup.answer(name, f"/collections/things?{token}")
        assert (told.status, told.body["error_type"]) == (412, "lost_branch")
    for name in NAMES[1:3]:
        assert syncs_of(backup.answer(name, "/replication/status").body).full == 0


@pytest.mark.needs("curl")
def test_a_copy_without_an_identity_of_its_own_is_refused_by_its_original(fleet: Fleet) -> None:
    fleet.run(
        """
        ssh node-1 systemctl stop vectorizer
        ssh node-1 cp -aT /var/lib/vectorizer /backup/original
        ssh node-1 systemctl start vectorizer
        ssh node-4 cp -aT /backup/original /var/lib/vectorizer
        ssh node-4 systemctl start vectorizer
        """
    )
    if fleet.is_primary("node-4"):  # what REST stored in the original came with the copy
        fleet.rest["node-4"].post("/replication/follow", {"master_address": fleet.replication["node-1"]})

    def is_refused() -> bool:
        link = fleet.answer("node-4", "/replication/status").body["link"]
        return bool(link["state"] == "refused" and link["last_error"]["reason"] == "cycle")

    wait_until(is_refused, "it is refused")


@pytest.mark.needs("curl", "openssl")
def test_rotating_the_replication_secret(fleet: Fleet) -> None:
    fleet.follow_runbook("Rotating the replication secret")
    secrets = {
        (fleet.directory / name / "etc/vectorizer/replication.secret").read_text() for name in NAMES[:3]
    }
    assert len(secrets) == 1
    assert SECRET not in secrets
    fleet.write("rotated")
    fleet.settled("node-1", "node-2", "node-3")


def test_rotating_an_api_key(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    try:
        keys_of = "--config /etc/vectorizer/config.yml"
        old = fleet.run(
            f"ssh node-1 vectorizer keys add --role write --name importer {keys_of} 2>/dev/null"
        ).strip()
        fleet.run("ssh node-1 systemctl start vectorizer")
        assert fleet.answer("node-1", "/collections", {"X-API-Key": old}).status == 200
        fleet.follow_runbook("Rotating an API key")
        wait_until(
            lambda: fleet.answer("node-1", "/collections", {"X-API-Key": old}).status == 401,
            "the old key is worthless",
        )
        assert (fleet.directory / "node-2/etc/vectorizer/keys").read_bytes().strip()
    finally:
        fleet.stop()

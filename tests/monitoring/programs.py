"""The real Prometheus and HAProxy, each a process of its own with the files of conf/."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import yaml

from tests.cluster.harness import Client, Node, free_port, wait_until

CONF = Path(__file__).resolve().parents[2] / "conf"
STOP_SECS = 10.0

Sample = tuple[dict[str, str], float]


class Program:
    """A process that logs to a file, as a context: it runs inside and has ended after it."""

    def __init__(
        self, directory: Path, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._log = directory / "log"
        self._command = command
        self._environment = {**os.environ, **(environment or {})}

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=self._environment, cwd=self._log.parent
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(STOP_SECS)

    def wait_answers(self, client: Client, path: str) -> None:
        """Until it answers 200 there; the log is shown if it ends instead."""

        def answered() -> bool:
            assert self._process.poll() is None, self._log.read_text(errors="replace")
            return client.request("GET", path).status == 200

        wait_until(answered, f"{self._command[0]} answers {path}")


class Prometheus(Program):
    """Scrapes these nodes with conf/monitoring/prometheus.yml, of which only targets and intervals differ."""

    def __init__(self, directory: Path, nodes: Sequence[Node]) -> None:
        port = free_port()
        self.client = Client("127.0.0.1", port)
        config = yaml.safe_load((CONF / "monitoring" / "prometheus.yml").read_text())
        config["global"] = {
            "scrape_interval": "250ms",
            "scrape_timeout": "250ms",
            "evaluation_interval": "1s",
        }
        config["rule_files"] = [str(CONF / "monitoring" / name) for name in config["rule_files"]]
        [job] = config["scrape_configs"]
        [targets] = job["static_configs"]
        targets["targets"] = [instance_of(node) for node in nodes]
        directory.mkdir(parents=True)
        path = directory / "prometheus.yml"
        path.write_text(yaml.safe_dump(config))
        super().__init__(
            directory,
            [
                "prometheus",
                f"--config.file={path}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
        )

    def __enter__(self) -> Self:
        super().__enter__()
        self.wait_answers(self.client, "/-/ready")
        return self

    def query(self, expression: str) -> list[Sample]:
        """The samples of an instant query; AssertionError if Prometheus does not understand it."""
        answer = self.client.request("GET", f"/api/v1/query?query={quote(expression)}")
        assert answer.status == 200, (expression, answer.body)
        return [(row["metric"], float(row["value"][1])) for row in answer.body["data"]["result"]]

    def value(self, expression: str) -> float | None:
        """The one sample of a query, None if there is none yet."""
        found = self.query(expression)
        assert len(found) <= 1, (expression, found)
        return found[0][1] if found else None

    def rules(self) -> list[dict[str, Any]]:
        """The rules it evaluates, with their state."""
        groups = self.client.get("/api/v1/rules")["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]


class HAProxy(Program):
    """Balances three nodes with conf/haproxy/haproxy.cfg as it is; `client` is what clients use."""

    def __init__(self, directory: Path, nodes: Sequence[Node]) -> None:
        port, statistics = free_port(), free_port()
        self.client = Client("127.0.0.1", port)
        self._statistics = Client("127.0.0.1", statistics)
        environment = {
            "VECTORIZER_NAME": f"vectorizer-{port}",
            "VECTORIZER_BIND": f"127.0.0.1:{port}",
            "VECTORIZER_STATS": f"127.0.0.1:{statistics}",
            **{f"VECTORIZER_NODE_{number}": instance_of(node) for number, node in enumerate(nodes, 1)},
        }
        super().__init__(
            directory, ["haproxy", "-db", "-f", str(CONF / "haproxy" / "haproxy.cfg")], environment
        )

    def __enter__(self) -> Self:
        super().__enter__()
        self.wait_answers(self._statistics, "/metrics")
        return self

    def up(self, backend: str) -> set[str]:
        """Names of the servers of a backend that are in use."""
        text: str = self._statistics.get("/metrics")
        pattern = rf'haproxy_server_status{{proxy="{backend}",server="(\w+)",state="UP"}} 1'
        return set(re.findall(pattern, text))


def instance_of(node: Node) -> str:
    """host:port, which is also what Prometheus calls it."""
    return f"{node.host}:{node.port}"

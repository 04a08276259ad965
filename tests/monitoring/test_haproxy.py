"""The real HAProxy with conf/haproxy: no read fails through a replica's death and a promotion."""

from __future__ import annotations

import subprocess
import time
from functools import partial
from pathlib import Path

import pytest

from tests.cluster.harness import Client, Cluster, Node, wait_until
from tests.cluster.harness.crew import Crew
from tests.monitoring.exposition import Scrape
from tests.monitoring.programs import CONF, HAProxy

READERS = 4
READ_PAUSE_SECS = 0.005
QUESTION = {"vector": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], "limit": 3}
SEARCH = "/collections/alpha/search"


class Reading(Crew):
    """Clients that read through the balancer all the time, as a context; any answer but 200 is a failure."""

    def __init__(self, client: Client) -> None:
        self.answers = 0
        self.refused: list[str] = []
        self._client = client
        super().__init__("a reader", [partial(self._read, number) for number in range(READERS)])

    def wait_answers(self, more: int) -> None:
        """Until so many further reads were answered; none may have failed by then."""
        goal = self.answers + more
        wait_until(lambda: self.failures or self.refused or self.answers >= goal, f"{more} more reads")
        self.raise_failure()
        assert self.refused == []

    def _read(self, number: int) -> None:
        requests = [
            ("POST", SEARCH, QUESTION),
            ("GET", "/collections/alpha/vectors/first", None),
            ("POST", f"{SEARCH}/batch", {"searches": [QUESTION, QUESTION]}),
            ("GET", "/collections", None),
        ]
        while not self.stopped.is_set():
            number += 1
            method, path, document = requests[number % len(requests)]
            try:
                answer = self._client.request(method, path, document)
            except OSError as error:
                self.refused.append(f"{method} {path}: {error!r}")
                continue
            if answer.status == 200:
                self.answers += 1
            else:
                self.refused.append(f"{method} {path}: {answer.status} {answer.body}")
            time.sleep(READ_PAUSE_SECS)


def searches_of(node: Node) -> float:
    """Searches that this node has answered."""
    labels = {"route": "/collections/{name}/search", "method": "POST", "status": "2xx"}
    try:
        return Scrape(node).labelled("vectorizer_http_request_duration_seconds_count", **labels)
    except KeyError:
        return 0.0


def write(client: Client, vector_id: str) -> int:
    """Status of an upsert through the balancer."""
    row = {"id": vector_id, "vector": QUESTION["vector"]}
    return client.request("POST", "/collections/alpha/vectors", {"vectors": [row]}).status


@pytest.mark.needs("haproxy")
def test_haproxy_accepts_the_configuration() -> None:
    path = CONF / "haproxy" / "haproxy.cfg"
    done = subprocess.run(["haproxy", "-c", "-f", str(path)], capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr


@pytest.mark.needs("haproxy")
def test_no_read_fails_through_a_death_and_a_promotion(cluster: Cluster, tmp_path: Path) -> None:
    cluster.start(replicas=2, collections=["alpha"])
    old, [heir, other] = cluster.master, cluster.replicas
    with HAProxy(tmp_path / "haproxy", [old, heir, other]) as balancer:
        client = balancer.client
        wait_until(lambda: balancer.up("master") == {"node1"}, "the master is found")
        wait_until(lambda: balancer.up("replicas") == {"node2", "node3"}, "the replicas are found")
        assert write(client, "first") == 200
        wait_until(lambda: other.offset == heir.offset == old.offset, "the replicas have the first row")
        with Reading(client) as reading:
            reading.wait_answers(200)
            assert searches_of(old) == 0
            assert min(searches_of(heir), searches_of(other)) > 0

            other.kill()
            reading.wait_answers(200)
            wait_until(lambda: balancer.up("replicas") == {"node2"}, "the dead replica is out")
            other.start()
            wait_until(lambda: balancer.up("replicas") == {"node2", "node3"}, "it is back")
            reading.wait_answers(100)

            old.stop()
            heir.configure(role="master")
            wait_until(lambda: balancer.up("master") == {"node2"}, "the new master is found")
            wait_until(lambda: write(client, "second") == 200, "writes reach the new master")
            wait_until(lambda: balancer.up("replicas") == {"node3"}, "the new master serves no reads")
            reading.wait_answers(200)

            other.kill()
            wait_until(lambda: balancer.up("replicas") == set(), "no replica is left")
            reading.wait_answers(200)
        assert reading.refused == []
        assert client.get("/collections/alpha/vectors/second")["id"] == "second"

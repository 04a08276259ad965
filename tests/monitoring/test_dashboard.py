"""The dashboard in the real Chromium: what it shows is true, and what it changes is changed."""

from __future__ import annotations

import http.client
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.harness import Cluster, Node, wait_until
from tests.cluster.harness.fixtures import quiet_cluster
from tests.monitoring.chromium import DESKTOP, PHONE, Browser
from vectorizer.keys import KeyRing, new_key

__all__ = ["quiet_cluster"]

SLOW_BYTES_PER_SEC = 150_000.0
"""At which a full sync takes some ten seconds."""

pytestmark = pytest.mark.needs("chromium", "chromedriver")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if shutil.which("chromium") is None or shutil.which("chromedriver") is None:
        pytest.skip("needs the programs chromium and chromedriver, which are not installed")
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def box_of(node: Node) -> str:
    """Where the topology shows a node."""
    return f'.node[data-node="{node.status()["node_id"]}"]'


def assert_quiet(browser: Browser, *nodes: Node) -> None:
    """Nothing went wrong in the page, and it has asked nobody but these nodes."""
    assert browser.trouble() == []
    asked = browser.requests()
    assert len(asked) > 3
    allowed = tuple(f"http://127.0.0.1:{node.port}/" for node in nodes)
    assert [url for url in asked if not url.startswith((*allowed, "data:image/svg", "about:"))] == []
    assert {peer.removeprefix("::ffff:") for peer in browser.peers()} <= {"127.0.0.1", "::1"}


def test_numbers_are_true_and_a_death_is_seen(cluster: Cluster, browser: Browser) -> None:
    cluster.start(replicas=2)
    master, (first, second) = cluster.master, cluster.replicas
    browser.open(master)
    with cluster.load(writers=1):
        wait_until(lambda: browser.text("#figure-rate dd span") not in ("", "–", "0/s"), "writes are seen")
        flowing = "return document.querySelectorAll('#links path.flow').length"
        wait_until(lambda: browser.run(flowing) == 2, "the links show that operations flow")
    cluster.converged()
    offset = f"{master.offset:,}"
    browser.wait_text("#figure-offset dd span", offset)
    browser.wait_text("#figure-window", offset)
    browser.wait_text("#figure-connected", "2 of 2")
    browser.wait_text(box_of(master), "Master")
    for replica in (first, second):
        browser.wait_text(box_of(replica), "Connected")
        browser.wait_text(box_of(replica), f"127.0.0.1:{replica.port}")
        browser.wait_text(box_of(replica), f"offset {offset} · lag 0 ms")
    wait_until(lambda: {row[3].split()[0] for row in browser.rows("replicas")} == {offset}, "rows are true")
    held = {name: f"{size:,}" for name, (_, size) in master.digests().items()}
    wait_until(
        lambda: {row[0]: row[1] for row in browser.rows("collections")} == held, "collections are true"
    )
    browser.wait_text('[data-event="replica_joined"]', "info")
    gone = box_of(second)
    second.kill()
    browser.wait_text(gone, "Disconnected")
    browser.wait_text("#figure-connected", "1 of 2")
    browser.wait_text(box_of(first), "Connected")
    browser.wait_text('[data-event="replica_left"]', "connection_lost")
    assert_quiet(browser, master)


def test_the_progress_of_a_full_sync_is_shown_at_both_ends(cluster: Cluster, browser: Browser) -> None:
    cluster.start(replicas=0, collections=["alpha"], replication={"snapshot_chunk_bytes": 64 << 10})
    cluster.bulk()
    link = cluster.proxy_to(cluster.master)
    link.bytes_per_sec = SLOW_BYTES_PER_SEC
    replica = cluster.replica_node(link.address).start()
    browser.open(cluster.master)
    browser.wait_text("#replicas", "to go")
    browser.wait_text(box_of(replica), "Syncing")
    shown = "return document.querySelector('#replicas progress')?.value ?? 0"
    first = wait_until(lambda: browser.run(shown), "the sync has begun")
    wait_until(lambda: browser.run(shown) > first, "the sync goes on")
    assert_quiet(browser, cluster.master)
    browser.open(replica)
    browser.wait_text("#notice", "Full sync of this node:")
    browser.wait_text("#writes", "no complete data yet")
    browser.wait_text("#no-collections", "no complete data yet")
    link.heal()
    browser.wait_text("#writes", "read only")
    browser.wait_text("#collections", "bulk")
    assert_quiet(browser, replica)


def test_a_replica_is_promoted_after_a_confirmation(cluster: Cluster, browser: Browser) -> None:
    cluster.start(replicas=1)
    master, [replica] = cluster.master, cluster.replicas
    browser.open(replica)
    browser.wait_text("#role", "Replica")
    browser.wait_text(box_of(master), "streaming")
    assert not browser.visible("switchover")
    master.kill()
    browser.wait_text("#notice", "The link to the master is down")
    browser.click("promote")
    browser.wait_text("#dialog", "Make this node the master?")
    browser.wait_text("#dialog", "Its master does not answer")
    browser.click("cancel")
    wait_until(lambda: not browser.visible("dialog"), "the dialog is gone")
    assert replica.role == "replica"
    browser.click("promote")
    browser.click("confirm")
    browser.wait_text("#role", "Master")
    browser.wait_text("#writes", "takes writes")
    browser.wait_text('[data-event="promoted"]', "promoted")
    assert replica.role == "master"
    assert_quiet(browser, replica)


def test_the_mastership_is_handed_over_and_a_refusal_is_told(cluster: Cluster, browser: Browser) -> None:
    cluster.start(replicas=1)
    master, [replica] = cluster.master, cluster.replicas
    browser.open(master)
    browser.click("switchover")
    browser.wait_text("#dialog", f"127.0.0.1:{replica.port}")
    browser.click("confirm")
    browser.wait_text("#role", "Replica")
    browser.wait_text(box_of(replica), "streaming")
    assert (master.role, replica.role) == ("replica", "master")
    assert_quiet(browser, master)
    browser.click("follow")
    browser.type("master_address", "nowhere")
    browser.click("confirm")
    browser.wait_text("#dialog-error", "nowhere")
    assert master.role == "replica"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_it_fits_the_screen(
    quiet_cluster: Cluster, browser: Browser, tmp_path: Path, size: tuple[int, int], dark: bool
) -> None:
    browser.open(quiet_cluster.master, dark=dark, size=size)
    browser.wait_text("#figure-connected", "2 of 2")
    wait_until(lambda: len(browser.rows("collections")) >= 3, "collections are shown")
    assert browser.run("return innerWidth") == size[0]
    assert browser.run("return document.documentElement.scrollWidth") <= size[0]
    edges = browser.run(
        "return [...document.querySelectorAll('main *')]"
        ".map(e => [e.getBoundingClientRect().right, e.outerHTML]).filter(([right]) => right > innerWidth)"
    )
    assert edges == []
    colours = browser.run("return ['backgroundColor', 'color'].map(n => getComputedStyle(document.body)[n])")
    background, text = (sum(map(int, colour[4:-1].split(","))) for colour in colours)
    assert (background < 150 < 600 < text) if dark else (text < 150 < 600 < background)
    assert browser.run(
        "return ['throughput', 'lag'].every(id => { const c = document.getElementById(id);"
        "return c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(v => v) })"
    ), "the charts are drawn"
    assert (tmp_path / "page.png").write_bytes(browser.driver.get_screenshot_as_png()) > 10_000
    assert_quiet(browser, quiet_cluster.master)


def asks_badly(node: Node) -> None:
    """Without a key, for a path that would do harm if it were shown as HTML."""
    connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=10)
    try:
        connection.request("GET", "/collections/c/vectors/<img/src=x/onerror=alert(1)>")
        assert connection.getresponse().status == 401
    finally:
        connection.close()


def test_a_key_is_asked_for_and_its_role_decides(cluster: Cluster, browser: Browser) -> None:
    node = cluster.master_node("guarded")
    made = {role: new_key(role, role, 0) for role in ("read", "admin")}
    node.data_directory.mkdir(parents=True)
    (node.data_directory / "keys").write_bytes(KeyRing(key for key, _ in made.values()).encode())
    node.start()
    asks_badly(node)
    browser.open(node)
    browser.wait_text("#dialog", "This node asks for a key")
    browser.click("cancel")
    browser.wait_text("#trouble", "shows nothing without an API key")
    browser.click("key")
    browser.type("key", "vz_wrong")
    browser.click("confirm")
    browser.wait_text("#dialog-error", "key")
    browser.type("key", made["read"][1])
    browser.click("confirm")
    browser.wait_text("#role", "Master")
    browser.wait_text("#events", "<img/src=x/onerror=alert(1)>")
    assert browser.run("return document.images.length") == 0
    assert not any(browser.visible(name) for name in ("promote", "switchover", "follow"))
    browser.click("key")
    browser.type("key", made["admin"][1])
    browser.click("confirm")
    wait_until(lambda: browser.visible("switchover") and browser.visible("follow"), "admins may change roles")
    assert browser.run("return sessionStorage.length") == 1 and browser.run("return localStorage.length") == 0
    assert [message for message in browser.trouble() if "status of 401" not in message] == []

"""The real Chromium without a window, driven through chromedriver; it talks to this machine only."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

from tests.cluster.harness import Node, wait_until

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DESKTOP = (1280, 1000)
PHONE = (390, 844)


class Browser:
    """One tab with a profile of its own, as a context."""

    def __init__(self, profile: Path) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = str(shutil.which("chromium"))
        for flag in [*FLAGS, f"--user-data-dir={profile}"]:
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self._service = Service(str(shutil.which("chromedriver")))
        self.driver = webdriver.Chrome(options, self._service)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.driver.quit()

    # -- what its user does ----------------------------------------------------------------------------------

    def open(self, node: Node, *, dark: bool = False, size: tuple[int, int] = DESKTOP) -> Self:
        """Look at the dashboard of this node; what was logged before is forgotten."""
        self.look(dark=dark, size=size)
        self.driver.get("about:blank")
        self.trouble()
        self.requests()
        self.driver.get(f"http://127.0.0.1:{node.port}/dashboard")
        return self

    def look(self, *, dark: bool, size: tuple[int, int]) -> None:
        """Another screen."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        screen = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size[0] < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)

    def click(self, name: str) -> None:
        """Press the button with this id as soon as it is there."""
        wait_until(lambda: self.visible(name), f"the button {name} is there")
        self.driver.find_element(By.ID, name).click()

    def type(self, name: str, text: str) -> None:
        """Fill a field of the dialog."""
        field = self.driver.find_element(By.NAME, name)
        field.clear()
        field.send_keys(text)

    # -- what its user sees ----------------------------------------------------------------------------------

    def run(self, script: str, *arguments: object) -> Any:
        """The value of a piece of JavaScript."""
        return self.driver.execute_script(script, *arguments)

    def visible(self, name: str) -> bool:
        """Whether the element with this id can be seen."""
        return bool(self.run("return document.getElementById(arguments[0])?.checkVisibility()", name))

    def text(self, selector: str) -> str:
        """The text of the first element that fits, "" if there is none."""
        found: str = self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector)
        return found

    def wait_text(self, selector: str, wanted: str) -> None:
        """Until that element shows this, whatever else it shows."""
        wait_until(lambda: wanted in self.text(selector), f"{selector} shows {wanted!r}")

    def rows(self, table: str) -> list[list[str]]:
        """The texts of a table's cells."""
        rows: list[list[str]] = self.run(
            "return [...document.getElementById(arguments[0]).children].map(row => "
            "[...row.children].map(cell => cell.innerText))",
            table,
        )
        return rows

    # -- what went on behind the page ------------------------------------------------------------------------

    def trouble(self) -> list[str]:
        """Warnings and errors of the console since the last call."""
        return [row["message"] for row in self.driver.get_log("browser") if row["level"] != "INFO"]

    def requests(self) -> list[str]:
        """Addresses that the page has asked since the last call."""
        messages = [json.loads(row["message"])["message"] for row in self.driver.get_log("performance")]
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]

    def peers(self) -> set[str]:
        """The hosts that the browser's processes are connected to."""
        return {
            connection.raddr.ip
            for process in self._processes()
            for connection in process.net_connections("inet")
            if connection.raddr
        }

    def _processes(self) -> Sequence[psutil.Process]:
        driver = psutil.Process(self._service.process.pid)
        return [driver, *driver.children(recursive=True)]

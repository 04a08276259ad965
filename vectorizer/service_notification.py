"""Telling systemd how the service is (the sd_notify protocol: datagrams to the socket in NOTIFY_SOCKET)."""

from __future__ import annotations

import os
import socket

from vectorizer import logs

log = logs.get(__name__)


def notify(state: str) -> None:
    """Send a state such as ``READY=1``; does nothing outside a service of Type=notify."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]  # the abstract namespace
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.sendto(state.encode(), address)
    except OSError as error:
        log.warning("service_notification_failed", state=state, error=str(error))

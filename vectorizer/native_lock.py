"""The operating system's own lock, untouched by gevent.

Pure code is shared between the event loop and native threads. A patched lock would switch greenlets when it
is contended, so this module is imported before gevent patches anything and keeps the original. Such a lock
is held for a few instructions only and never across I/O.
"""

from __future__ import annotations

from _thread import RLock as NativeRLock
from _thread import allocate_lock as NativeLock

__all__ = ["NativeLock", "NativeRLock"]

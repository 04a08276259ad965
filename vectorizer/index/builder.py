"""Entry of the builder's process: it gives way first, then imports what builds.

``python -m vectorizer.index.builder <niceness> <segment directory> ...``, the rest is for ``build.main``. The
imports take 0.2 s of a processor, as long as a node needs for 50,000 rows that come in meanwhile.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

AUTOGROUP = Path("/proc/self/autogroup")
AUTOGROUP_TRIES, AUTOGROUP_WAIT_SECS = 20, 0.1


def give_way(niceness: int) -> None:
    """Let other processes have the processor first, as far as this niceness says.

    Linux divides the processor among sessions first, and looks at niceness only within each of them
    (``sched_autogroup_enabled``). So a niced builder in the session of its server took as much from clients
    and from other servers as the server itself may; one that leads a session of its own gives the session
    its niceness. With columns coming in at 60,000/s on two cores, that took the lag's p99 from 60 ms to 23.
    """
    os.nice(niceness)
    if os.getsid(0) != os.getpid():
        return  # of somebody else
    for _ in range(AUTOGROUP_TRIES):
        try:
            AUTOGROUP.write_text(str(niceness))
            return
        except BlockingIOError:  # the system makes one such change every 0.1 s, for all its users
            time.sleep(AUTOGROUP_WAIT_SECS)
        except OSError:  # a kernel without such groups: then niceness counts everywhere
            return


if __name__ == "__main__":
    give_way(int(sys.argv[1]))
    from vectorizer.index.build import main

    sys.exit(main(sys.argv[2:]))

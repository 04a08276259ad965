"""The Python side of scripts/cluster, which documents the options and makes the environment first."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from scripts.demo import screen
from scripts.demo.client import NodeError
from scripts.demo.processes import (
    Cluster,
    ClusterError,
    Interruption,
    Plan,
    check_ports,
    forget_the_dead,
    stop_left_behind,
)

ROOT = Path(__file__).resolve().parents[2]
USAGE = "scripts/cluster [--no-demo] [--keep] [--base-port N] [--replication-port N] | --stop | --help"


def port(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if not 1 <= number <= 65533:
        raise argparse.ArgumentTypeError(f"{text} is not a port from 1 to 65533")
    return number


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/cluster", usage=USAGE, add_help=False, allow_abbrev=False)
    parser.add_argument("--no-demo", action="store_true")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--stop", action="store_true")
    parser.add_argument("--base-port", type=port, default=15002)
    parser.add_argument("--replication-port", type=port, default=7001)
    return parser.parse_args()


def announce(cluster: Cluster) -> None:
    for name, url in cluster.plan.urls.items():
        print(f"  {name:<10} {url}   log: {cluster.log_of(name)}")
    print(f"  replication at 127.0.0.1:{cluster.plan.replication_port}\n", flush=True)


def run(plan: Plan, demo: bool) -> int:
    """Start, show, wait for the end, stop; the exit code."""
    interruption = Interruption()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interruption)
    forget_the_dead(plan)
    check_ports(plan)
    print("Starting a master and two replicas ...", flush=True)
    cluster = Cluster(plan, interruption)
    try:
        cluster.start()
        announce(cluster)
        if demo:
            # scikit-learn takes seconds to import; by now the nodes run, and Ctrl-C is heard.
            from scripts.demo import digits

            digits.show(plan.urls["master"], [plan.urls["replica-1"], plan.urls["replica-2"]])
        screen.watch(cluster, interruption.asked)
    except KeyboardInterrupt:
        print("\nStopping ...", flush=True)
    finally:
        interruption.asked.set()
        killed = cluster.stop()
    for name in killed:
        print(f"{name} did not stop when asked and was killed.", file=sys.stderr)
    print(f"All nodes have stopped.{f' The data is in {cluster.directory}.' if plan.keep else ''}")
    return 1 if killed else 0


def main() -> int:
    given = arguments()
    plan = Plan(ROOT, given.base_port, given.replication_port, given.keep)
    try:
        if given.stop:
            print(stop_left_behind(plan))
            return 0
        return run(plan, demo=not given.no_demo)
    except (ClusterError, NodeError) as error:
        print(f"scripts/cluster: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever read the output has seen enough, and the nodes have been stopped. Nothing is to be flushed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    sys.exit(main())

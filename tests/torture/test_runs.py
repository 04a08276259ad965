"""The one table: what other rooms report is understood, and what must not be makes the command fail."""

from __future__ import annotations

from pathlib import Path

import orjson

from tests.torture.runs import RUNS, simulation_report
from tests.torture.scenarios import read_results
from tests.torture.tally import Kind, Report, markdown

SIMULATED = {
    "seeds": 3,
    "faults": {"power off": 7, "cut": 9},
    "lost": 0,
    "doubled": 0,
    "not_started": 0,
    "longest_stall_virtual_ms": 1234.5,
    "failures": [],
}
RESULTS = """<testsuites><testsuite>
<testcase classname="tests.cluster.test_full_sync_under_fire" name="test_one"/>
<testcase classname="tests.cluster.test_full_sync_under_fire" name="test_two">
<failure message="lost&#10;more"/></testcase>
<testcase classname="tests.cluster.test_guards" name="test_three"><skipped message="no tmpfs"/></testcase>
</testsuite></testsuites>"""


def test_a_report_is_the_same_after_it_was_written_and_read(tmp_path: Path) -> None:
    report = Report([Kind("cut", 5, 2, 0, 0, 12.5, lost_allowed=3)], ["one"], ["two"])
    report.write(tmp_path / "report.json")
    assert Report.from_document(orjson.loads((tmp_path / "report.json").read_bytes())) == report


def test_only_what_was_announced_may_be_lost() -> None:
    assert not Kind("cut", 5, lost=3, lost_allowed=3).wrong
    assert Kind("cut", 5, lost=4, lost_allowed=3).wrong
    assert Kind("cut", 5, doubled=1).wrong
    assert Kind("cut", 5, not_started=1).wrong
    assert Report(failures=["grew"]).wrong


def test_the_table_says_what_is_unknown_or_was_not_measured() -> None:
    rows = markdown([Kind("cut", 1234, 0, 0, 0, 1500.0), Kind("kill", 1, None, None, None)]).splitlines()
    assert rows[2:] == ["| cut | 1,234 | 0 | 0 | 0 | 1.5 s |", "| kill | 1 | ? | ? | ? | – |"]


def test_the_simulation_reports_in_its_own_form() -> None:
    report = simulation_report(SIMULATED)
    assert [(kind.kind, kind.count, kind.lost) for kind in report.kinds] == [
        ("simulation: power off", 7, 0),
        ("simulation: cut", 9, 0),
        ("simulation: seeds", 3, 0),
    ]
    failed = {"seed": 2, "kind": "lost", "sentence": "5 is gone"}
    report = simulation_report({**SIMULATED, "lost": 1, "failures": [failed]})
    assert report.kinds[0].lost is None
    assert report.wrong


def test_a_scenario_that_fails_says_which_and_how_much_was_lost_is_unknown(tmp_path: Path) -> None:
    results = tmp_path / "results.xml"
    results.write_text(RESULTS)
    report = read_results(results)
    assert [(kind.kind, kind.count, kind.lost) for kind in report.kinds] == [
        ("scenarios: full sync under fire", 2, None),
        ("scenarios: guards", 0, 0),
    ]
    assert report.failures == ["scenarios: full sync under fire: test_two: lost"]


def test_a_run_that_leaves_no_report_is_a_failure(tmp_path: Path) -> None:
    [part] = RUNS[0].parts(1.0)
    (tmp_path / f"{part.name}.log").write_text("it broke here")
    assert "it broke here" in part.ended(3, tmp_path).failures[0]
    Report([Kind("cut", 1)]).write(tmp_path / f"{part.name}.json")
    assert part.finished(tmp_path) == Report([Kind("cut", 1)])
    assert part.ended(3, tmp_path).wrong, "it says less than its exit code"


def test_no_run_is_empty_at_the_smallest_scale() -> None:
    least = {run.name: run.words(1e-9)[0][1:] for run in RUNS}
    assert least["simulation"] == ["--first", "0", "--seeds", "3"]
    assert least["hostile"][:4] == ["--seed", "1", "--inputs", "1000"]
    assert least["corruptions"][2:] == ["--corruptions", "10"]
    assert least["set"] == ["set", "--secs", "8"]


def test_the_parts_of_a_run_are_all_of_it_and_become_one_row_a_kind() -> None:
    [simulation] = [run for run in RUNS if run.name == "simulation"]
    parts = simulation.parts(0.06)
    assert [part.words[1:] for part in parts] == [
        ["--first", "0", "--seeds", "250"],
        ["--first", "250", "--seeds", "250"],
        ["--first", "500", "--seeds", "100"],
    ]
    assert len({part.name for part in parts}) == len(parts)
    [hostile] = [run for run in RUNS if run.name == "hostile"]
    assert [part.words[2:5] for part in hostile.parts(0.15)] == [
        ["1", "--inputs", "100000"],
        ["2", "--inputs", "50000"],
    ]
    told = Report(
        [Kind("cut", 5, 1, 0, None, 12.5, 2), Kind("kill", 1), Kind("cut", 2, 0, 0, 0, None, 1)],
        ["one"],
        ["two"],
    )
    assert told.by_kind() == Report([Kind("cut", 7, 1, 0, None, 12.5, 3), Kind("kill", 1)], ["one"], ["two"])

"""Scenarios on real processes: each test a story, told with the words of `tests.cluster.harness`."""

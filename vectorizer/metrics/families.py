"""Families of samples in the form of prometheus-client, built on each scrape from what exists.

Names begin with ``vectorizer_``, end with a base unit, and with ``_total`` where they only grow. What a label
may hold is bounded: by the code, or by ``bounded`` where a peer has a say in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.utils import floatToGoString

from vectorizer.histogram import Histogram

PREFIX = "vectorizer_"
CODES_MAX = 40
"""Reasons shown of one counter; they are codes that a peer can make up."""
OTHER = "other"

Labelled = tuple[tuple[str, ...], float]
"""Values of the labels, and the sample's value."""


def gauge(name: str, text: str, value: float) -> Metric:
    """One number that goes up and down."""
    return GaugeMetricFamily(PREFIX + name, text, value=float(value))


def gauges(name: str, text: str, labels: Sequence[str], samples: Iterable[Labelled]) -> Metric:
    """Several of them."""
    family = GaugeMetricFamily(PREFIX + name, text, labels=labels)
    for values, value in samples:
        family.add_metric(values, float(value))
    return family


def state(name: str, text: str, label: str, current: str, states: Iterable[str]) -> Metric:
    """1 for the state of now, 0 for all others: so that each is a line of its own over time."""
    return gauges(name, text, [label], (((each,), float(each == current)) for each in states))


def counter(name: str, text: str, value: float) -> Metric:
    """One number that only grows, until the process or its role begins anew."""
    return CounterMetricFamily(PREFIX + name, text, value=float(value))


def counters(name: str, text: str, labels: Sequence[str], samples: Iterable[Labelled]) -> Metric:
    """Several of them."""
    family = CounterMetricFamily(PREFIX + name, text, labels=labels)
    for values, value in samples:
        family.add_metric(values, float(value))
    return family


def histograms(
    name: str, text: str, labels: Sequence[str], samples: Iterable[tuple[tuple[str, ...], Histogram]]
) -> Metric:
    """Observations by size."""
    family = HistogramMetricFamily(PREFIX + name, text, labels=labels)
    for values, histogram in samples:
        counts, total = histogram.read()
        bounds = [*map(floatToGoString, histogram.bounds), "+Inf"]
        family.add_metric(values, list(zip(bounds, map(float, counts), strict=True)), total)
    return family


def bounded(counts: Mapping[str, int], codes_max: int = CODES_MAX) -> list[tuple[str, int]]:
    """The codes that came first, and the sum of all that came later as ``other``: none ever goes down."""
    shown = list(counts.items())
    if len(shown) > codes_max:
        shown[codes_max:] = [(OTHER, sum(count for _, count in shown[codes_max:]))]
    return shown

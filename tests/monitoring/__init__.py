"""Monitoring and balancing with the real programs: promtool, Prometheus, HAProxy."""

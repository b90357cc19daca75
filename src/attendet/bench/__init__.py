"""Measure the speed of files and runtimes on this machine, side by side in one run.

Nothing here prints; `attendet bench` does. The record of a run is plain JSON, which
`attendet.report.bench` shows as a table and a figure.
"""

from __future__ import annotations

from attendet.bench.candidates import Candidate, plan_candidates
from attendet.bench.measure import BenchSettings, run_bench
from attendet.bench.verdict import name_fastest

__all__ = ["BenchSettings", "Candidate", "name_fastest", "plan_candidates", "run_bench"]

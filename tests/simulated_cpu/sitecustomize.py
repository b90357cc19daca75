"""Simulated CPU of a test run, loaded by every Python process of the run (see tests/conftest.py).

``ATTENDET_TEST_CORES`` is the number of cores that Python reports, ``ATTENDET_TEST_CPUINFO`` a file
that replaces /proc/cpuinfo for attendet.
"""

import os
from pathlib import Path

cores = os.environ.get("ATTENDET_TEST_CORES")
if cores:
    os.sched_getaffinity = lambda pid=0, count=int(cores): set(range(count))
    os.cpu_count = lambda count=int(cores): count

cpuinfo = os.environ.get("ATTENDET_TEST_CPUINFO")
if cpuinfo:
    from attendet import system

    system.CPUINFO = Path(cpuinfo)

"""The probe, the load of others, and the judgement."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from attendet.bench import noise
from attendet.bench.noise import LoadWatch, Probe, judge_noise


def test_a_quiet_machine_passes() -> None:
    judged = judge_noise([1.0, 1.02, 0.99, 1.01], 0.01)

    assert judged == {
        "probe_spread": pytest.approx(0.0149, abs=1e-3),
        "other_load": 0.01,
        "too_noisy": False,
        "reason": None,
    }


def test_a_spread_and_a_load_are_both_named() -> None:
    judged = judge_noise([1.0, 1.5, 1.0, 1.6], 0.3)

    assert judged["too_noisy"]
    assert judged["reason"] is not None
    assert "% more or less time from turn to turn" in judged["reason"]
    assert "other programs took 30 %" in judged["reason"]
    assert not judge_noise([1.0], None)["too_noisy"]


def test_the_probe_times_itself() -> None:
    probe = Probe(2)
    probe.run()
    probe.run()
    probe.close()

    assert len(probe.seconds) == 2
    assert min(probe.seconds) > 0


def test_the_load_of_others_is_what_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([(100.0, 1000.0), (150.0, 1100.0)])
    monkeypatch.setattr(noise, "_busy_and_total", lambda: next(times))
    own = iter([10.0, 30.0])
    monkeypatch.setattr(LoadWatch, "_own", staticmethod(lambda _: next(own)))

    assert LoadWatch().other_load() == pytest.approx(0.3)


def test_where_nobody_knows_the_load_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "STAT", Path("/nowhere"))

    assert LoadWatch().other_load([1]) is None
    assert noise._process_seconds(2**22 + 1) == 0


@pytest.mark.skipif(not noise.STAT.exists(), reason="counts processor time on Linux alone")
def test_a_process_of_ours_counts_as_ours() -> None:
    code = "import time; begun = time.process_time()\nwhile time.process_time() - begun < 0.2: pass"
    process = subprocess.Popen([sys.executable, "-c", f"{code}\ntime.sleep(9)"])
    try:
        deadline = time.monotonic() + 9
        while noise._process_seconds(process.pid) < 0.2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert noise._process_seconds(process.pid) >= 0.2
    finally:
        process.kill()
        process.wait()

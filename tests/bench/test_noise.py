"""The probe, the load of other programs, and the judgement."""

from __future__ import annotations

from pathlib import Path

import pytest

from attendet.bench import noise
from attendet.bench.noise import LoadWatch, Probe, judge_noise


def test_a_quiet_machine() -> None:
    judged = judge_noise([1.0, 1.02, 0.99, 1.01], 0.01)

    assert judged == {
        "probe_spread": pytest.approx(0.0149, abs=1e-3),
        "other_load": 0.01,
        "too_noisy": False,
        "reason": None,
    }


def test_spread_and_load_are_both_reported() -> None:
    judged = judge_noise([1.0, 1.5, 1.0, 1.6], 0.3)

    assert judged["too_noisy"]
    assert judged["reason"] is not None
    assert "computation varied by" in judged["reason"]
    assert "other programs took 30 %" in judged["reason"]
    assert not judge_noise([1.0], None)["too_noisy"]


def test_the_probe_records_its_times() -> None:
    probe = Probe(2)
    probe.run()
    probe.run()
    probe.close()

    assert len(probe.seconds) == 2
    assert min(probe.seconds) > 0


def test_other_load_excludes_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = iter([(100.0, 1000.0), (150.0, 1100.0)])
    monkeypatch.setattr(noise, "_busy_and_total", lambda: next(machine))
    own = iter([(4.0, 3.0, 2.0, 1.0, 99.0), (10.0, 8.0, 7.0, 5.0, 999.0)])
    monkeypatch.setattr(noise.os, "times", lambda: next(own))

    assert LoadWatch().other_load() == pytest.approx(0.3)


def test_without_proc_the_load_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "STAT", Path("/nowhere"))

    assert LoadWatch().other_load() is None

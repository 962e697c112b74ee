import re
from functools import partial
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_gengap import GapMonitor
from lightning_gengap.demo import demo


def test_demo_prints_predicted_and_actual_gap_and_writes_events(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    # By default histograms are drawn where time allows, which other tests take.
    monkeypatch.setattr(f"{demo.__module__}.GapMonitor", partial(GapMonitor, budget=0.9))
    demo(epochs=3, out=tmp_path)
    printed = capsys.readouterr().out
    lines = re.findall(r"^ +(\d+) +([\d.]+) +([\d.]+) +(-?[\d.]+) \.\. *([\d.]+) +(-?[\d.]+)", printed, re.MULTILINE)
    assert [line[0] for line in lines] == ["1", "2", "3"]
    for _, train, predicted, low, high, actual in lines:
        assert float(low) <= float(predicted) <= float(high)
        assert abs(float(actual)) <= float(train)
    assert f"tensorboard --logdir {tmp_path}" in printed
    (folder,) = (tmp_path / "demo").iterdir()
    events = EventAccumulator(str(folder)).Reload()
    assert "gengap/predicted_gap" in events.Tags()["scalars"]
    assert {"gengap/margin/input", "gengap/margin/h1", "gengap/margin/h3"} <= set(events.Tags()["histograms"])

from pathlib import Path
from typing import Any

import fresh_epochs
import pytest
from fresh_epochs import HEADER, SETTINGS, Setting, line, main

from lightning_gengap.zoo.files import read_rows

TINY = (Setting("tiny", SETTINGS[0].network, 8, 200, epochs=2, rounds=1),)


def test_trainings_alternate_and_are_not_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "runs" / "fresh.csv"
    main(["--out", str(out)], TINY)
    alone, watched = read_rows(out)
    assert (alone["watched"], watched["watched"]) == ("False", "True")
    assert (len(alone["statuses"]), len(watched["statuses"])) == (0, 2)
    assert float(alone["in hooks"]) == 0.0 < float(watched["in hooks"]) < float(watched["epochs"])
    assert all(0 < float(row["start"]) + float(row["epochs"]) < float(row["total"]) for row in (alone, watched))
    monkeypatch.setattr(fresh_epochs, "training", None)  # nothing is left to train
    main(["--out", str(out)], TINY)
    printed = capsys.readouterr().out.splitlines()
    assert [row.startswith("| tiny |") for row in printed].count(True) == 2


def test_shares_and_ratios_are_of_pairs_of_trainings():
    def row(number: int, watched: bool, epochs: float, statuses: str) -> dict[str, Any]:
        total = {"start": 2.0 if watched else 1.0, "epochs": epochs, "total": epochs + (2.0 if watched else 1.0)}
        told = {"statuses": statuses, "overhead": "0.05" if watched else "", "in hooks": str(epochs - 4.0)}
        return {"round": str(number), "watched": str(watched)} | {k: str(v) for k, v in total.items()} | told

    setting = Setting("made", SETTINGS[0].network, 8, 200, epochs=4, rounds=3)
    rows = [row(0, False, 4.0, ""), row(0, True, 5.0, "0015"), row(1, False, 4.0, ""), row(1, True, 6.0, "0002")]
    rows.append(row(2, False, 99.0, ""))  # its watched training is not finished
    cells = [cell.strip() for cell in line(setting, rows).strip("|").split("|")]
    assert dict(zip(HEADER, cells, strict=True)) == {
        "setting": "made",
        "seconds an epoch": "1.00",
        "trainings x epochs": "2 x 4",
        "fresh": "62 %",
        "held": "12 %",
        "abstaining": "12 %",
        "other": "12 %",
        "time of the epochs, with / without": "1.375 [1.250, 1.500]",
        "with the hooks / without them": "1.375 [1.250, 1.500]",
        "start-up (s)": "1.00 [1.00, 1.00]",
        "whole time, with / without": "1.500 [1.400, 1.600]",
        "logged overhead": "0.050",
    }


def test_without_a_folder_of_data_digits_are_repeated_until_there_are_enough():
    data = Setting("long", SETTINGS[2].network, 16, 1300, epochs=1, rounds=1).data(None)
    images, labels = data.tensors
    assert images.shape == (1300, 3, 16, 16)
    assert labels.shape == (1300,)
    assert not (images[:100] == images[1197:1297]).any()

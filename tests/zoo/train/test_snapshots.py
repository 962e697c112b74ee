from pathlib import Path

import torch

from lightning_gengap.zoo.train.snapshots import Weights


def test_weights_come_back_as_they_were(tmp_path: Path):
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    kept = Weights()
    kept.add(0, model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model(torch.randn(4, 3))
    kept.add(12, model)
    kept.write(tmp_path / "w.npz")
    back = Weights.read(tmp_path / "w.npz")
    for epoch, state in ((0, before), (12, model.state_dict())):
        assert {name: value.tolist() for name, value in back.at(epoch).items()} == {
            name: value.tolist() for name, value in state.items()
        }

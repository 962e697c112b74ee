from __future__ import annotations

import torch

from lightning_gengap.network.subsample import subsample
from tests import networks
from tests.probes import probing

COUNT = 9


def test_a_subsample_is_seeded_and_reaches_into_every_part_of_the_content() -> None:
    model, images = networks.made(networks.mlp), networks.images(COUNT)
    targets = torch.arange(COUNT) % networks.CLASSES
    drawn = []
    for seed in (0, 0, 1):
        with probing(model, images, targets, chunk=4, seed=seed) as probe:
            contents, labels, sizes = subsample(probe, 5)
        inputs = torch.cat([content[0] for content in contents])
        rows = [int((images == row).flatten(1).all(dim=1).nonzero()) for row in inputs]
        assert torch.equal(labels, targets[rows])
        assert torch.equal(labels, torch.cat([content[1] for content in contents]))
        assert sum(sizes) == 5
        drawn.append(rows)
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_small_chunk_divides_batches_and_changes_neither_samples_nor_their_order() -> None:
    model, images = networks.made(networks.mlp), networks.images(COUNT)
    targets = torch.arange(COUNT) % networks.CLASSES
    with probing(model, images, targets, chunk=5) as probe:
        whole, labels, sizes = subsample(probe, 8)
        parts, again, small = subsample(probe, 8, chunk=2)
    assert sizes == (8,)
    assert max(small) == 2
    assert sum(small) == 8
    assert torch.equal(labels, again)
    assert torch.equal(whole[0][0], torch.cat([part[0] for part in parts]))

"""How many mislabelled samples are found, and how many of those found are mislabelled, by several rules.

    python studies/mislabelled.py --data DIRECTORY [--sources digits fashion_mnist cifar10]

Labels are drawn anew for a share of the samples; those that change are the mislabelled ones. All rules read the same
out-of-fold probabilities: of ridge on patches or of trees, whichever is right more often. With cleanlab installed, its
`find_label_issues` stands beside them. A small network is trained on the same labels; its probabilities are those of
the epoch at which it agrees most with the reference. Prints Markdown: precision / recall.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor, nn

from lightning_gengap.measures.agreement.fitting import Judged
from lightning_gengap.measures.agreement.mislabelled import contradicted
from lightning_gengap.measures.agreement.references import REFERENCES
from lightning_gengap.network.layers import Layout
from lightning_gengap.network.probe import Probe
from lightning_gengap.samples.batches import read_batch
from lightning_gengap.samples.calling import default_forward
from lightning_gengap.zoo.train.task import Task, prepare

SAMPLES = {"digits": 1000, "fashion_mnist": 1500, "cifar10": 2000}
SIDES = {"digits": 8, "fashion_mnist": 28, "cifar10": 32}
NOISES = (0.1, 0.2, 0.4)
EPOCHS, BATCH, CLASSES = 6, 50, 10
RULES = {
    "disagreement": "the reference predicts another class",
    "confident": "the same, where its probability exceeds one half",
    "default": "what `mislabelled` does: confident learning",
    "most probable": "confident learning, of the most probable class alone",
    "cleanlab": "`find_label_issues(filter_by='confident_learning')`",
    "with the network": "`default`, of the mean of both probabilities",
    "network too": "`default`, where the network contradicts the label too",
    "network against": "`default`, where the network says the label at the end",
}


def reference_of(images: Tensor, labels: Tensor) -> tuple[str, Tensor]:
    """The reference that is right most often, and its probabilities."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(images[0].numel(), CLASSES))
    batch = read_batch((images, labels))
    probe = Probe(model=model, batches=(batch,), layout=Layout.of(model, batch, default_forward))
    judged = Judged.of(probe)
    shares = {name: REFERENCES[name].fit(probe, judged, {}).said().shares for name in ("patch", "forest")}
    best = max(shares, key=lambda name: int((shares[name].argmax(1) == labels).sum()))
    return best, shares[best]


def trained(images: Tensor, labels: Tensor) -> list[Tensor]:
    """The probabilities of a small network after each epoch."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inner, outer in ((images.shape[1], 24), (24, 48)):
        layers += [nn.Conv2d(inner, outer, 3, stride=2, padding=1), nn.BatchNorm2d(outer), nn.ReLU()]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48 * 16, CLASSES))
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    found = []
    for _ in range(EPOCHS):
        network.train()
        for rows in torch.randperm(len(images)).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images[rows]), labels[rows]).backward()
            optimizer.step()
        network.eval()
        with torch.no_grad():
            found.append(network(images).softmax(1).double())
    return found


def by_most_probable(shares: Tensor, labels: Tensor) -> Tensor:
    """Whether the most probable class is not the label, and reaches its threshold."""
    thresholds = torch.stack([shares[labels == each, each].mean() for each in range(shares.shape[1])])
    highest, predicted = shares.max(1)
    return (predicted != labels) & (highest >= thresholds[predicted])


def flagged(shares: Tensor, labels: Tensor, epochs: list[Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    """Which samples each rule finds, and the probabilities with the network's."""
    highest, predicted = shares.max(1)
    agrees = [int((each.argmax(1) == predicted).sum()) for each in epochs]
    network = epochs[int(np.argmax(agrees))]
    both, own = (shares + network) / 2, contradicted(shares, labels)
    found = {
        "disagreement": predicted != labels,
        "confident": (predicted != labels) & (highest > 0.5),
        "default": own,
        "most probable": by_most_probable(shares, labels),
        "with the network": contradicted(both, labels),
        "network too": own & (network.argmax(1) != labels),
        "network against": own & (epochs[-1].argmax(1) == labels),
    }
    if find_spec("cleanlab") is not None:
        from cleanlab.filter import find_label_issues

        issues = find_label_issues(labels.numpy(), shares.numpy(), filter_by="confident_learning", n_jobs=1)
        found["cleanlab"] = torch.from_numpy(issues)
    return found, both


def ordered(shares: Tensor, labels: Tensor, wrong: Tensor) -> float:
    """The average precision of the order by how much more probable another class is."""
    scores = shares.max(1).values - shares.gather(1, labels[:, None])[:, 0]
    return float(average_precision_score(wrong.numpy(), scores.numpy()))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--sources", nargs="+", help="all with --data, else digits")
    arguments = parser.parse_args()
    sources = arguments.sources or (list(SAMPLES) if arguments.data else ["digits"])
    print("| data | redrawn | mislabelled | reference | " + " | ".join(RULES) + " | order | order with the network |")
    print("|---" * (len(RULES) + 6) + "|")
    for source in sources:
        for noise in NOISES:
            task = Task(source, tuple(range(10)), SIDES[source], False, SAMPLES[source], noise, 1)
            noisy, clean = (prepare(each, arguments.data) for each in (task, replace(task, noise=0.0)))
            images, labels = noisy.train_images, noisy.train_labels
            wrong = labels != clean.train_labels
            name, shares = reference_of(images, labels)
            found, both = flagged(shares, labels, trained(images, labels))
            cells = []
            for rule in RULES:
                flags = found.get(rule)
                if flags is None:
                    cells.append("-")
                    continue
                hits = int((flags & wrong).sum())
                cells.append(f"{hits / max(int(flags.sum()), 1):.2f} / {hits / int(wrong.sum()):.2f}")
            right = float((shares.argmax(1) == labels).double().mean())
            orders = f"{ordered(shares, labels, wrong):.2f} | {ordered(both, labels, wrong):.2f}"
            share = f"{float(wrong.double().mean()):.2f}"
            print(
                f"| {source} | {noise:g} | {share} | {name} {right:.2f} | {' | '.join(cells)} | {orders} |", flush=True
            )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

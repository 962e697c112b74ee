"""How well the training samples are fitted: accuracy, loss and confidence, clean and in eval mode."""

from __future__ import annotations

from torch.nn.functional import cross_entropy

from lightning_gengap.measures.margins.margin import margin_signature
from lightning_gengap.network.probe import Probe


def fit(probe: Probe) -> dict[str, float]:
    """Accuracy, mean cross-entropy and mean confidence on the probe, with the labels as trained.

    Keys `train_accuracy` (fraction), `train_loss` (nats), `train_confidence` (mean largest probability, fraction).
    Accuracy is invariant to a scaling of the logits, the others are not. Cost: none, the margins' forward is shared.
    """
    logits = probe.cached(margin_signature).logits
    return {
        "train_accuracy": float((logits.argmax(1) == probe.targets).double().mean()),
        "train_loss": float(cross_entropy(logits, probe.targets)),
        "train_confidence": float(logits.softmax(1).amax(1).mean()),
    }

"""Facts of the training and its task, which no measure gives and a predictor may use. No torch."""

from __future__ import annotations

import math

from lightning_gengap.measures.key import Key

FACTS: dict[str, Key] = {
    "train_samples": Key("samples", 1, math.inf, "distinct samples trained on"),
    "classes": Key("classes", 2, math.inf, "number of logits"),
    "classes_present": Key("classes", 1, math.inf, "classes that occur in the probe"),
    "probe_samples": Key("samples", 1, math.inf, "samples in the probe"),
    "progress": Key("fraction", 0, 1, "share of the planned training steps taken"),
    "trained_on_copies": Key("0 or 1", 0, 1, "1 where training augments or mixes the samples, 0 where it does not"),
    "speed/train_loss_mean": Key("nats", 0, math.inf, "running mean of the steps' training loss"),
    "speed/recent_loss": Key("nats", 0, math.inf, "mean of the steps' training loss in the last epoch"),
    "speed/first_epoch_loss": Key("nats", 0, math.inf, "the same in the first epoch: on samples not yet trained on"),
    "speed/first_epoch_accuracy": Key("fraction", 0, 1, "accuracy of the first epoch's steps, before each is taken"),
}

"""Whatever a network is made of, its margins are those of one sample at a time in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from lightning_gengap.measures.margins.margin import margin_signature
from tests import oracles
from tests.probes import measured, probing
from tests.properties.architectures import Architecture, architectures
from tests.properties.batches import Samples
from tests.properties.effort import examples

pytestmark = pytest.mark.filterwarnings("ignore")
COUNT = 24


@examples(30)
@given(architectures(("vectors", "images", "sequences")), st.sampled_from([5, COUNT]))
def test_margins_are_those_of_one_sample_at_a_time(parts: Architecture, chunk: int) -> None:
    assume(not parts.whole_numbers and not parts.time_first)
    torch.manual_seed(0)
    data, model = Samples(parts, COUNT), parts.build().double().eval()
    inputs, targets = data.inputs.double(), data.targets
    model(inputs)  # makes lazy layers
    model.double()
    expected = oracles.distances(model, "input", inputs, targets)
    variation = oracles.total_variation(model, "input", inputs)
    assume(np.isfinite(expected).all())
    with probing(model, inputs, targets, chunk=chunk) as probe:
        signature = margin_signature(probe)
        taps = {tap.layer: str(tap) for tap in probe.layout.taps}
    np.testing.assert_allclose(signature.layers["input"].margins().numpy(), expected / variation, rtol=1e-7, atol=1e-12)
    for layer, tap in taps.items():
        if layer in signature.layers and not any("in place" in name for name in parts.names):
            found = oracles.distances(model, tap, inputs, targets) / oracles.total_variation(model, tap, inputs)
            np.testing.assert_allclose(signature.layers[layer].margins().numpy(), found, rtol=1e-7, atol=1e-12)
    values = measured("margin", model, inputs, targets, chunk=chunk).values
    logits = model(inputs).detach()
    assert values["margin/correct_fraction"] == pytest.approx(float((logits.argmax(1) == targets).double().mean()))

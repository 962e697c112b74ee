from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lightning_gengap.zoo.card import card
from lightning_gengap.zoo.evaluation import bootstrap, scores
from lightning_gengap.zoo.fit import Specification, Term, fit
from tests.zoo.tables import table

SPECIFICATION = Specification(
    "planted", (Term("train_loss", "log"), Term("train_samples", "log"), Term("difficulty/ridge_accuracy", "identity"))
)


def test_report_tells_the_planted_predictor_from_its_baselines_and_the_card_shows_it(tmp_path: Path):
    made = table(tmp_path, noise=0.05)
    report = scores(made, SPECIFICATION)
    by_task = report["splits"]["by task"]
    assert by_task["mae"]["planted"][0] < by_task["mae"]["trivial"][0] < by_task["mae"]["constant"][0]
    assert by_task["skill"][0] == pytest.approx(
        1 - by_task["mae"]["planted"][0] / by_task["mae"]["trivial"][0], abs=1e-2
    )
    assert set(report["splits"]["leave one family out"]["groups"]) == {"cnn", "vgg", "resnet", "mlp", "vit"}
    assert set(report["locked"]) == {"tasks", "source fashion_mnist", "family vit"}
    assert report["ranking"]["planted"][0] > report["ranking"]["train accuracy"][0]
    assert report["turn"]["chosen"][0] < report["turn"]["last"][0]
    text = card(replace(fit(made, SPECIFICATION), scores=report), made)
    assert f"{by_task['mae']['planted'][0]:.1f}" in text
    assert "leave one source out" in text


def test_bootstrap_resamples_groups_not_rows():
    groups = np.repeat(np.arange(10), 100)
    values = np.repeat(np.random.default_rng(0).normal(size=10), 100)
    mean, low, high = bootstrap(values, groups)
    assert mean == pytest.approx(values.mean(), abs=1e-3)
    assert high - low > 0.5  # ten groups; a bootstrap over 1,000 rows would give about 0.1

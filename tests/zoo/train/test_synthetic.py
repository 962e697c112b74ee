import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from lightning_gengap.zoo.train.synthetic import SYNTHETIC, bayes_accuracy, synthetic_split


@pytest.mark.parametrize("source", SYNTHETIC)
def test_splits_are_fixed_distinct_and_hold_every_class(source: str):
    (features, labels), (test, _) = synthetic_split(source, "train"), synthetic_split(source, "test")
    again, _ = synthetic_split(source, "train")
    assert np.array_equal(features, again)
    assert not np.isin(test[:100, 0], features[:, 0]).any()
    assert set(labels) == {0, 1, 2, 3}
    assert np.bincount(labels).min() > 400


def test_no_classifier_beats_the_bayes_accuracy_and_the_best_linear_one_reaches_it_on_gaussians():
    bayes = bayes_accuracy("gaussians")
    features, labels = synthetic_split("gaussians", "train")
    test, test_labels = synthetic_split("gaussians", "test")
    accuracy = LogisticRegression(max_iter=500).fit(features, labels).score(test, test_labels)
    noise = math.sqrt(bayes * (1 - bayes) / len(test))  # for equal covariances the Bayes classifier is linear
    assert bayes - 0.02 - 3 * noise < accuracy < bayes + 3 * noise


def test_bayes_accuracy_of_real_data_is_unknown():
    assert math.isnan(bayes_accuracy("digits"))

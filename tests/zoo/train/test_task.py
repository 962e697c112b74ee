from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_gengap.errors import DataError
from lightning_gengap.zoo.train.task import Task, prepare
from tests.zoo.train.recipes import write_texts

DIGITS = Task("digits", tuple(range(10)), 8, True, 1100, 0.0, seed=3)


def test_noise_redraws_its_share_of_the_train_labels_only():
    before, after = prepare(DIGITS, None), prepare(replace(DIGITS, noise=0.5), None)
    changed = (before.train_labels != after.train_labels).double().mean().item()
    assert changed == pytest.approx(0.5 * 0.9, abs=0.05)  # a tenth of the redrawn labels stay the same
    assert torch.equal(before.test_labels, after.test_labels)
    assert torch.equal(before.train_images, after.train_images)
    assert before.train_images.mean().item() == pytest.approx(0, abs=1e-5)


def test_imbalance_is_the_ratio_of_the_largest_to_the_smallest_class_in_both_splits():
    data = prepare(replace(DIGITS, imbalance=8.0, train_samples=400), None)
    for labels in (data.train_labels, data.test_labels):
        counts = np.bincount(labels.numpy(), minlength=10)
        assert counts[0] / counts[9] == pytest.approx(8.0, rel=0.35)  # whole images
        assert all(first >= later for first, later in pairwise(counts))
    assert len(data.train_labels) <= 400


def test_superclasses_merge_the_classes_in_turn():
    task = replace(DIGITS, groups=3)
    merged, plain = prepare(task, None), prepare(DIGITS, None)
    assert task.outputs == 3
    assert torch.equal(merged.train_labels, plain.train_labels % 3)
    assert DIGITS.outputs == 10


def test_coarse_images_keep_their_side_and_have_equal_blocks():
    images = prepare(replace(DIGITS, coarse=4), None).train_images
    assert images.shape[-1] == 8
    assert torch.equal(images[:, :, 0::2, 0::2], images[:, :, 1::2, 1::2])


def test_rotated_images_are_those_of_the_plain_task_turned():
    turned, plain = prepare(replace(DIGITS, rotated=True), None).train_images, prepare(DIGITS, None).train_images
    matching = [
        any(torch.allclose(image, other.rot90(k, (1, 2)), atol=1e-5) for k in range(4))
        for image, other in zip(turned[:50], plain[:50], strict=True)
    ]
    assert all(matching)
    assert not torch.allclose(turned, plain, atol=1e-3)


def test_tabular_and_synthetic_tasks_are_standardised_features():
    for source, classes in (("breast_cancer", 2), ("teacher", 4)):
        data = prepare(Task(source, tuple(range(classes)), 1, True, 300, 0.0, 0), None)
        assert data.train_images.ndim == 2
        assert len(data.train_images) == 300
        assert torch.allclose(data.train_images.std(dim=0), torch.ones(data.train_images.shape[1]), atol=1e-3)
    assert 0.5 < data.bayes_accuracy < 1


def test_missing_files_say_what_is_expected(tmp_path: Path):
    with pytest.raises(DataError, match="Pass --data DIRECTORY"):
        prepare(Task("cifar10", (0, 1), 16, False, 100, 0.0, 0), tmp_path)


def test_so_many_test_samples_are_drawn_as_the_task_says():
    fewer, all_of_them = prepare(replace(DIGITS, test_samples=100), None), prepare(DIGITS, None)
    assert len(fewer.test_labels) == 100
    assert len(all_of_them.test_labels) == 600
    assert torch.equal(fewer.train_images, all_of_them.train_images)


def test_samples_of_the_first_part_are_the_same_where_the_rest_is_missing(tmp_path: Path):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 255, (60, 4, 4, 3), dtype=np.uint8), np.arange(60) % 3
    task = Task("made_up", (0, 2), 4, False, 10, 0.0, 1, first=30)
    found = []
    for folder, count in (("whole", 60), ("part", 30)):
        (tmp_path / folder).mkdir()
        for split in ("train", "test"):
            np.save(tmp_path / folder / f"made_up_{split}_images.npy", images[:count])
            np.save(tmp_path / folder / f"made_up_{split}_labels.npy", labels[:count])
        found.append(prepare(task, tmp_path / folder))
    assert torch.equal(found[0].train_images, found[1].train_images)
    assert torch.equal(found[0].test_labels, found[1].test_labels)
    assert not torch.equal(found[0].train_images, prepare(replace(task, first=0), tmp_path / "whole").train_images)


def test_a_column_that_is_constant_in_training_is_zero_everywhere(tmp_path: Path):
    lines = [f"{k}, {int(k == 19)}, {'a' if k % 2 else 'b'}" for k in range(20)]  # row 19 is one of the tests
    (tmp_path / "titanic.dat").write_text("\n".join(lines))
    data = prepare(Task("titanic", (0, 1), 1, True, 3, 0.0, 0), tmp_path)
    both = torch.cat([data.train_images, data.test_images])
    assert both.isfinite().all()
    constant = data.train_images.std(dim=0) == 0
    assert both[:, constant].eq(0).all()


def test_noise_redraws_labels_of_tables_and_texts_as_of_images(tmp_path: Path):
    write_texts(tmp_path)
    for source in ("wine", "sst2"):
        task = Task(source, (0, 1), 1, True, 1000, 0.0, seed=2)
        before, after = prepare(task, tmp_path), prepare(replace(task, noise=1.0), tmp_path)
        changed = (before.train_labels != after.train_labels).double().mean().item()
        assert changed == pytest.approx(0.5, abs=0.2)
        assert torch.equal(before.train_images, after.train_images)
        assert torch.equal(before.test_labels, after.test_labels)


def test_texts_stay_token_ids_with_the_number_of_ids_beside_them(tmp_path: Path):
    write_texts(tmp_path)
    data = prepare(Task("sst2", (0, 1), 1, True, 20, 0.0, seed=2), tmp_path)
    assert data.train_images.dtype == torch.int64
    assert data.vocabulary > int(data.train_images.max()) >= 2
    assert data.vocabulary > int(data.test_images.max())
    assert prepare(DIGITS, None).vocabulary == 0

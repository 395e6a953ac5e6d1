"""The validation split: the right shares, the same on every machine, and an error for what cannot be."""

import hashlib

import pytest
import torch

from fmx.data.split import split_validation

LABELS = torch.arange(1000) % 10
SKEWED = torch.tensor([0] * 700 + [1] * 200 + [2] * 70 + [3] * 30)


def split(labels=LABELS, validation=100, split="stratified", seed=0):
    return split_validation(labels, validation=validation, split=split, seed=seed)


@pytest.mark.parametrize("labels", [LABELS, SKEWED, SKEWED.flip(0)])
@pytest.mark.parametrize("validation", [1, 7, 100, 333, 0.1, 0.2, 0.999e-3, "none"])
def test_stratified_parts_are_sorted_complete_and_proportional(labels, validation):
    train, val = split(labels, validation)
    assert train.dtype == val.dtype == torch.int64
    assert torch.equal(train, train.sort().values)
    assert torch.equal(val, val.sort().values)
    assert torch.equal(torch.cat([train, val]).sort().values, torch.arange(1000))
    shares = torch.bincount(labels[val], minlength=10)
    assert torch.all((shares - torch.bincount(labels, minlength=10) * len(val) / 1000).abs() < 1)


@pytest.mark.parametrize(
    ("validation", "count"),
    [(1, 1), (100, 100), (0.1, 100), (0.2, 200), (0.9, 900), (0.0001, 1), (0.1234, 124), ("none", 0)],
)
@pytest.mark.parametrize("how", ["stratified", "tail"])
def test_counts_and_fractions(validation, count, how):
    train, val = split(validation=validation, split=how)
    assert (len(train), len(val)) == (1000 - count, count)


def test_largest_remainders_come_first_and_the_lower_class_among_equals():
    labels = torch.tensor([0] * 5 + [1] * 5 + [2] * 10)
    assert torch.bincount(labels[split(labels, 2)[1]], minlength=3).tolist() == [1, 0, 1]
    assert torch.bincount(labels[split(labels, 5)[1]], minlength=3).tolist() == [1, 1, 3]


def test_tail_is_the_end_of_the_file():
    train, val = split(validation=0.2, split="tail")
    assert torch.equal(train, torch.arange(800))
    assert torch.equal(val, torch.arange(800, 1000))


def test_seed_alone_decides_and_the_draw_is_pinned():
    torch.manual_seed(5)
    first, again, other = split(seed=0)[1], split(seed=0)[1], split(seed=1)[1]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert hashlib.sha256(first.numpy().tobytes()).hexdigest()[:16] == "e2f0aa17ea1d9cbe"


def test_a_larger_validation_set_contains_a_smaller_one():
    small, large = split(validation=50)[1], split(validation=100)[1]
    assert torch.isin(small, large).all()


@pytest.mark.parametrize("validation", [0, -1, 1.0, 1.5, 0.0, -0.1, True, float("nan"), "some", None])
def test_validation_that_is_no_share(validation):
    with pytest.raises(ValueError, match=r"data.validation must be a count from 1, a fraction"):
        split(validation=validation)


@pytest.mark.parametrize("how", ["stratified", "tail"])
def test_impossible_splits(how):
    with pytest.raises(ValueError, match=r"leaves none of the 1,000 training images; use a smaller count"):
        split(validation=1000, split=how)
    with pytest.raises(
        ValueError, match=r"leaves no training image of class 3; use data.split=stratified|of class 0; hold"
    ):
        split(SKEWED if how == "tail" else torch.tensor([0] + [1] * 9), 30 if how == "tail" else 9, how)


def test_wrong_names_and_seeds():
    with pytest.raises(ValueError, match=r"data.split must be stratified or tail, got 'tale'"):
        split(split="tale")
    with pytest.raises(ValueError, match=r"data.split_seed must be at least 0, got -1"):
        split(seed=-1)

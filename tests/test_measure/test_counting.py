# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import pytest
import torch
import torch.nn as nn

from autonl_mm.measure.counting import built_macs, count_parameters


class Product(nn.Module):
    """An affinity, and a product with it."""

    def forward(self, x):
        x = x.flatten(2)
        return x @ (x.transpose(1, 2) @ x)


@pytest.mark.parametrize('model,macs', [
    (nn.Conv2d(3, 8, 3, padding=1), 27 * 8 * 48),
    (nn.Conv2d(3, 3, 3, padding=1, groups=3), 9 * 3 * 48),
    (nn.Sequential(nn.Flatten(), nn.Linear(144, 5)), 144 * 5),
    (nn.AdaptiveAvgPool2d(1), 144),
    (Product(), 2 * 48 * 48 * 3),
    (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()), 0),
])
def test_counts_macs(model, macs):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert built_macs(model, 3, 6, 8) == macs
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


def test_counts_what_would_not_fit():
    assert built_macs(Product(), 1, 4096, 4096) == 2 * 4096**4


def test_counts_parameters():
    assert count_parameters(nn.Linear(3, 4)) == 16

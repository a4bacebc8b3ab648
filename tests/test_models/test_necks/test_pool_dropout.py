# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import pytest
import torch
from mmengine.registry import MODELS

from autonl_mm.models.necks import PoolDropout


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_pools_in_eval_mode():
    neck = MODELS.build(dict(type='autonl_mm.PoolDropout', dropout=0.9)).eval()
    x = torch.randn(2, 5, 4, 3)
    out = neck(x)
    assert isinstance(out, torch.Tensor)
    torch.testing.assert_close(out, x.mean((2, 3)))


@pytest.mark.parametrize('kind', [tuple, list])
def test_several_feature_maps(kind):
    neck = PoolDropout().eval()
    features = kind([torch.randn(2, 5, 4, 3), torch.randn(2, 7, 1, 2)])
    out = neck(features)
    assert isinstance(out, tuple) and len(out) == 2
    for pooled, x in zip(out, features):
        torch.testing.assert_close(pooled, x.mean((2, 3)))


def test_drops_channels_in_training():
    x = torch.ones(50, 400, 2, 2)
    out = PoolDropout().train()(x)
    dropped = out == 0
    assert dropped.float().mean().item() == pytest.approx(0.2, abs=0.02)
    torch.testing.assert_close(out[~dropped], torch.full_like(out[~dropped], 1.25))
    assert torch.equal(PoolDropout(0.).train()(x), torch.ones(50, 400))


def test_has_no_weights():
    assert not PoolDropout().state_dict()


def test_bad_probability():
    with pytest.raises(ValueError, match=r'1\.5'):
        PoolDropout(1.5)

# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import torch

from autonl_mm.engine.hooks import ChannelsLastHook
from autonl_mm.models import AutoNL
from autonl_mm.nas import AutoNLSuperNet


class Runner:
    """The attributes of a runner that the hook reads."""

    def __init__(self, model):
        self.model = model


def test_layout_and_result(tiny_arch):
    torch.manual_seed(0)
    model = AutoNL(str(tiny_arch), out_indices=(1, -1)).eval()
    x = torch.randn(2, 3, 64, 64)
    before = model(x)
    ChannelsLastHook().before_run(Runner(model))
    after = model(x)
    for a, b in zip(before, after):
        assert b.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(a, b)


def test_supernet_keeps_the_layout():
    model = AutoNLSuperNet(out_indices=(3, 7))
    ChannelsLastHook().before_run(Runner(model))
    for out in model(torch.randn(2, 3, 64, 64)):
        assert out.is_contiguous(memory_format=torch.channels_last)

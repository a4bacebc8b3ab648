# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import copy

import torch

from autonl_mm.measure.classifiers import build_classifier
from autonl_mm.measure.passes import inference, noise, training


def test_forms_of_a_forward_pass(tiny_arch):
    """All compute the same."""
    model = build_classifier(tiny_arch)
    # the numbers that files of engines are measured on
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    want = copy.deepcopy(model).eval()(x).detach()
    torch.testing.assert_close(inference(copy.deepcopy(model), x)(), want)
    with torch.profiler.profile() as profile:
        got = inference(copy.deepcopy(model), x, 'fused')()
    torch.testing.assert_close(got, want)
    assert 'autonl_mm::mbconv' in {e.key for e in profile.key_averages()}
    got, = inference(model, x, 'onnxruntime')()
    assert (torch.from_numpy(got) - want).abs().max() <= 1e-4 * want.abs().max()


def test_training_step(tiny_arch):
    model = build_classifier(tiny_arch)
    before = model[-1].bias.clone()
    training(model, noise(2, 32, 32))()
    assert model.training and not torch.equal(model[-1].bias, before)
    assert all(weight.grad is not None for weight in model.parameters())

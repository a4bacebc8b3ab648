# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""A score of networks that were not trained."""
import torch

from autonl_mm.models import AutoNL
from autonl_mm.random_state import random_states_kept


def synflow(network: AutoNL, height: int, width: int) -> float:
    r"""How much all weights together pass on, before any training.

    SynFlow (Tanaka et al., NeurIPS 2020, arXiv 2006.05467) as a zero-cost proxy
    (Abdelfattah et al., ICLR 2021, arXiv 2101.08134): with all weights made positive
    and an input of ones, :math:`\log \sum |w \, dR / dw|`, R being the sum of the
    outputs. BN is what it is at initialisation, which includes that LightNL, whose BN
    starts at zero, is the identity: the score does not see it.

    Args:
        network (AutoNL): Gives the architecture; its weights are drawn again, always
            the same ones.
        height (int): Of the input.
        width (int): Of the input.

    Returns:
        float: The larger the better.
    """
    with random_states_kept(0, devices=[]):
        network.init_weights()
    network = network.cpu().double().eval()
    parameters = [p for p in network.parameters() if p.dim() > 1]
    with torch.no_grad():
        for parameter in parameters:
            parameter.abs_()
    with torch.enable_grad():
        ones = torch.ones(1, network.in_channels, height, width, dtype=torch.float64)
        total = sum(out.sum() for out in network(ones))
        gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    return sum((p * g).abs().sum() for p, g in zip(parameters, gradients)
               if g is not None).log().item()

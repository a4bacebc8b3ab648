# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Number of channels of the images that a network takes."""
from torch import nn


def input_channels(model: nn.Module) -> int:
    """Input channels of a network's first convolution.

    Args:
        model (nn.Module): The network, or a model with a ``backbone``; 3 if it has no
            convolution.
    """
    backbone = getattr(model, 'backbone', model)
    return next((m.in_channels for m in backbone.modules()
                 if isinstance(m, nn.Conv2d)), 3)

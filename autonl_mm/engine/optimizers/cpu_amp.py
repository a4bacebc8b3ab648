# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Mixed precision on the CPU, which mmengine's AmpOptimWrapper does not support."""
from contextlib import contextmanager

import torch
import torch.nn as nn
from mmengine.optim import OptimWrapper

from autonl_mm.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class CpuAmpOptimWrapper(OptimWrapper):
    """OptimWrapper whose forward pass runs under bfloat16 autocast.

    bfloat16 has the range of float32, so no loss scaling is needed.

    Args:
        **kwargs: Arguments of :class:`mmengine.optim.OptimWrapper`.
    """

    @contextmanager
    def optim_context(self, model: nn.Module):
        """Autocast inside of mmengine's own context."""
        with super().optim_context(model), \
                torch.autocast('cpu', dtype=torch.bfloat16):
            yield

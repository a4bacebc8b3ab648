# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Networks without a task in an engine, to measure them."""
import copy
from pathlib import Path
from typing import Callable, Sequence

import torch
import torch.nn as nn
from torch import Tensor

from autonl_mm.fold import switch_to_deploy

from .engines import ENGINES, Settings


class BareGraph(nn.Module):
    """Graph of a network without a task.

    Args:
        network (nn.Module): A network with one input and one output, which may be a
            tuple of one tensor.
    """

    task = 'network'
    outputs = ('output', )
    preprocesses = True

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Output of the network, from images ``(N, C, H, W)``."""
        out = self.network(x)
        return out[0] if isinstance(out, (tuple, list)) else out


def write_bare(engine: str, network: nn.Module, shape: Sequence[int],
               file: Path) -> None:
    """Export a network without a task, in deploy form and without a check.

    Args:
        engine (str): Key of :data:`autonl_mm.export.engines.ENGINES`.
        network (nn.Module): The network; it is not changed.
        shape (Sequence[int]): ``N, C, H, W`` of its input.
        file (Path): The main file.

    Raises:
        ExportError: If the engine's converter fails.
    """
    graph = BareGraph(switch_to_deploy(copy.deepcopy(network))).eval()
    ENGINES[engine].write(graph, Settings(tuple(shape)), file)


def load_bare(engine: str, shape: Sequence[int], file: Path) -> Callable:
    """Load a network written by :func:`write_bare`, with a constant random input.

    Args:
        engine (str): Key of :data:`autonl_mm.export.engines.ENGINES`.
        shape (Sequence[int]): ``N, C, H, W`` of its input.
        file (Path): The main file, which must stay until the last call.

    Returns:
        Callable: A forward pass. It has no arguments, returns a list of arrays, and
        runs in as many threads as torch has now.

    Raises:
        ValueError: If the engine does not load it.
    """
    info = dict(input=Settings(tuple(shape)).sizes, outputs=list(BareGraph.outputs))
    session = ENGINES[engine].open(file, info)
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0)).numpy()
    return lambda: session.run(x)

# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Networks and their parts in an engine, outside of a task, to measure them."""
import copy
from pathlib import Path
from typing import Callable, Sequence

import torch
import torch.nn as nn
from torch import Tensor

from autonl_mm.fold import switch_to_deploy

from .engines import ENGINES, Settings


class BareGraph(nn.Module):
    """A network with one input and one output as a graph.

    Args:
        network (nn.Module): It may return a tuple of one tensor.
    """

    task = 'network'
    outputs = ('output', )
    preprocesses = True

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` to the network's output."""
        out = self.network(x)
        return out[0] if isinstance(out, (tuple, list)) else out


def write_bare(engine: str, network: nn.Module, shape: Sequence[int],
                file: Path) -> None:
    """Write a network as a file of an engine, without a check.

    Args:
        engine (str): Key of :data:`autonl_mm.export.engines.ENGINES`.
        network (nn.Module): The network, not changed; its file is in deploy form.
        shape (Sequence[int]): ``N, C, H, W`` of its input.
        file (Path): The main file.

    Raises:
        ExportError: If the engine cannot.
    """
    graph = BareGraph(switch_to_deploy(copy.deepcopy(network))).eval()
    ENGINES[engine].write(graph, Settings(tuple(shape)), file)


def load_bare(engine: str, shape: Sequence[int], file: Path) -> Callable:
    """A forward pass of such a file, on numbers that are always the same.

    Args:
        engine, shape, file: As for :func:`write_bare`. The file must stay until the
            last call.

    Returns:
        Callable: Without arguments, returns a list of ``np.ndarray``. It runs in as
        many threads as torch has now.

    Raises:
        ValueError: If the engine does not load it.
    """
    info = dict(input=Settings(tuple(shape)).sizes, outputs=list(BareGraph.outputs))
    session = ENGINES[engine].open(file, info)
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0)).numpy()
    return lambda: session.run(x)

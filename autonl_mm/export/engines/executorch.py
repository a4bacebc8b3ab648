# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""ExecuTorch, with XNNPACK for what it can compute."""
from pathlib import Path
from typing import List

import numpy as np
import torch
import torch.nn as nn

from .base import Engine, ExportError, Session, Settings, first_line, quiet


class HalfGraph(nn.Module):
    """A graph whose network computes in float16; LightNL's products stay in float32.

    Args:
        graph (TaskGraph): The graph; its model is changed.
    """

    def __init__(self, graph: nn.Module):
        super().__init__()
        self.task = graph  # a module of torch.export has an attribute graph
        graph.model.half()
        self.inputs = graph.inputs
        graph.inputs = lambda x: self.inputs(x).half()

    def forward(self, x: torch.Tensor):
        """As the graph's, with inputs and outputs in float32."""
        out = self.task(x)
        if isinstance(out, torch.Tensor):
            return out.float() if out.is_floating_point() else out
        return tuple(o.float() if o.is_floating_point() else o for o in out)


class ExecuTorchSession(Session):
    """See :class:`Session`."""

    def __init__(self, file: Path, info: dict, program):
        super().__init__(file, info)
        self.program = program  # must live as long as its method
        self.method = program.load_method('forward')

    def run(self, images: np.ndarray) -> List[np.ndarray]:
        # copied: the outputs lie in memory that the next run writes to
        return [out.numpy().copy()
                for out in self.method.execute([torch.from_numpy(images)])]


class ExecuTorch(Engine):
    """Made from torch.export."""

    name = 'executorch'
    ending = '.pte'
    modules = ('executorch.exir', 'executorch.runtime')
    dynamic = ()
    precisions = ('fp32', 'fp16')

    def write(self, graph: nn.Module, settings: Settings, file: Path) -> None:
        exir = self.require('executorch.exir')
        partition = self.require(
            'executorch.backends.xnnpack.partition.xnnpack_partitioner')
        if settings.precision == 'fp16':
            graph = HalfGraph(graph)
        try:
            with quiet(), torch.no_grad():
                program = torch.export.export(
                    graph, (torch.rand(*settings.shape) * 255, ))
                program = exir.to_edge_transform_and_lower(
                    program, partitioner=[partition.XnnpackPartitioner()])
                file.write_bytes(program.to_executorch().buffer)
        except Exception as e:  # its errors have no common class
            raise ExportError(f'ExecuTorch cannot convert the graph: '
                              f'{first_line(e)}') from e

    def open(self, file: Path, info: dict) -> ExecuTorchSession:
        runtime = self.require('executorch.runtime').Runtime.get()
        pool = self.require('executorch.extension.pybindings.portable_lib')
        if pool._threadpool_get_thread_count() != torch.get_num_threads():
            pool._unsafe_reset_threadpool(torch.get_num_threads())  # there is no other
        try:
            return ExecuTorchSession(file, info, runtime.load_program(str(file)))
        except Exception as e:  # its errors have no common class
            raise ValueError(f'ExecuTorch does not load {file}: {first_line(e)}') from e

# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""ExecuTorch, with XNNPACK for the layers that XNNPACK supports."""
import copy
from pathlib import Path
from typing import Callable

import numpy as np
import torch
import torch.nn as nn

from autonl_mm.half import use_half
from autonl_mm.models.layers.export_and_precision import for_xnnpack

from .base import Engine, Settings, converting


class ExecuTorch(Engine):
    """Exports through torch.export."""

    name = 'executorch'
    ending = '.pte'
    modules = ('executorch.exir', 'executorch.runtime')
    dynamic = ()
    precisions = ('fp32', 'fp16')

    def write(self, graph: nn.Module, settings: Settings, file: Path) -> None:
        exir = self.require('executorch.exir')
        partition = self.require(
            'executorch.backends.xnnpack.partition.xnnpack_partitioner')
        fold = self.require('executorch.exir.passes.constant_prop_pass')
        if settings.precision == 'fp16':
            graph = copy.deepcopy(graph)
            use_half(graph.model, torch.float16)
        with converting('ExecuTorch'), for_xnnpack():
            program = torch.export.export(
                graph, (torch.rand(*settings.shape) * 255, ))
            # XNNPACK takes no convolution whose kernel is computed
            program = fold.constant_prop_pass(program)
            program = exir.to_edge_transform_and_lower(
                program, partitioner=[partition.XnnpackPartitioner()])
            file.write_bytes(program.to_executorch().buffer)

    def load(self, file: Path, info: dict) -> Callable:
        runtime = self.require('executorch.runtime').Runtime.get()
        pool = self.require('executorch.extension.pybindings.portable_lib')
        if pool._threadpool_get_thread_count() != torch.get_num_threads():
            # there is no other function for this
            pool._unsafe_reset_threadpool(torch.get_num_threads())
        program = runtime.load_program(str(file))
        method = program.load_method('forward')

        def run(images: np.ndarray, program=program):  # must live as long as its method
            # copied: the next run writes to the memory of the outputs
            return [out.numpy().copy()
                    for out in method.execute([torch.from_numpy(images)])]

        return run

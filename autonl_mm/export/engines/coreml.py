# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Core ML: a folder, ``.mlpackage``, that Apple's systems run."""
from pathlib import Path

import torch
import torch.nn as nn

from .base import Engine, ExportError, Settings, converting, quiet

# LightNL multiplies three features, which leaves the range of float16.
PRODUCTS = ('abs', 'reduce_max', 'matmul', 'real_div', 'reduce_sum', 'sqrt', 'clip')


class CoreMl(Engine):
    """Exports through a trace with coremltools.

    Core ML runs on Apple's systems only. Here only the specification is checked.
    """

    name = 'coreml'
    ending = '.mlpackage'
    modules = ('coremltools', )
    dynamic = ()
    precisions = ('fp32', 'fp16')
    runs = False

    def write(self, graph: nn.Module, settings: Settings, file: Path) -> None:
        ct = self.require('coremltools')
        precision = ct.precision.FLOAT32
        if settings.precision == 'fp16':
            precision = ct.transform.FP16ComputePrecision(
                op_selector=lambda op: op.op_type not in PRODUCTS)
        images = torch.rand(*settings.shape) * 255
        with converting('coremltools', 'coremltools', 'torch.jit'):
            traced = torch.jit.trace(
                with_plain_sizes(graph, images), images, check_trace=False)
            model = ct.convert(
                traced, convert_to='mlprogram',
                inputs=[ct.TensorType('input', shape=settings.shape)],
                outputs=[ct.TensorType(name) for name in graph.outputs],
                minimum_deployment_target=ct.target.iOS16,
                compute_precision=precision, skip_model_load=True)
            model.save(str(file))

    def inspect(self, file: Path, settings: Settings, outputs) -> None:
        ct = self.require('coremltools')
        with quiet('coremltools'):
            spec = ct.models.MLModel(str(file), skip_model_load=True).get_spec()
        found = {i.name: tuple(i.type.multiArrayType.shape)
                 for i in spec.description.input}
        names = [o.name for o in spec.description.output]
        kind = spec.WhichOneof('Type')
        wanted = dict(input=tuple(settings.shape))
        if kind != 'mlProgram' or found != wanted or names != list(outputs):
            raise ExportError(
                f'the specification has the type {kind}, inputs {found} and outputs '
                f'{names}, expected mlProgram, {wanted} and {list(outputs)}')

    def open(self, file: Path, info: dict):
        raise ValueError(f'{file} cannot be run here: Core ML runs on macOS and iOS')


def with_plain_sizes(graph: nn.Module, images: torch.Tensor) -> nn.Module:
    """Replace computed sizes in a graph by numbers, since coremltools 9 fails for them.

    Args:
        graph (TaskGraph): The graph.
        images (Tensor): Its input, ``(N, C, H, W)``.

    Returns:
        nn.Module: The graph for this size.
    """
    module = torch.export.export(graph, (images, )).module()
    for node in list(module.graph.nodes):
        if node.target is torch.ops.aten.alias.default:  # which coremltools lacks
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
    module.recompile()
    return module

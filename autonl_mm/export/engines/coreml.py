# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Core ML: a folder, ``.mlpackage``, that Apple's systems run."""
from pathlib import Path

import torch
import torch.nn as nn

from .base import Engine, ExportError, Session, Settings, first_line, quiet

# LightNL multiplies three features, which leaves the range of float16.
PRODUCTS = ('matmul', 'real_div', 'reduce_sum', 'sqrt', 'clip')


class CoreMl(Engine):
    """Made by coremltools from a trace. It runs on Apple's systems only, so that here
    only the specification is checked."""

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
        try:
            with quiet('coremltools', 'torch.jit'), torch.no_grad():
                traced = torch.jit.trace(
                    with_plain_sizes(graph, images), images, check_trace=False)
                model = ct.convert(
                    traced, convert_to='mlprogram',
                    inputs=[ct.TensorType('input', shape=settings.shape)],
                    outputs=[ct.TensorType(name) for name in graph.outputs],
                    minimum_deployment_target=ct.target.iOS16,
                    compute_precision=precision, skip_model_load=True)
                model.save(str(file))
        except Exception as e:  # its errors have no common class
            raise ExportError(f'coremltools cannot convert the graph: '
                              f'{first_line(e)}') from e

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

    def open(self, file: Path, info: dict) -> Session:
        raise ValueError(f'{file} cannot be run here: Core ML runs on macOS and iOS')


def with_plain_sizes(graph: nn.Module, images: torch.Tensor) -> nn.Module:
    """A graph in which sizes are numbers: coremltools 9 fails for those that it has to
    compute.

    Args:
        graph (TaskGraph): The graph.
        images (Tensor): What it takes.
    """
    module = torch.export.export(graph, (images, )).module()
    for node in list(module.graph.nodes):
        if node.target is torch.ops.aten.alias.default:  # which coremltools lacks
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
    module.recompile()
    return module

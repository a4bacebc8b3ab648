# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""A graph in ONNX, the input of several engines' converters."""
import io
from collections import Counter

import torch
import torch.nn as nn

from .base import ExportError, Settings, converting


def to_onnx(graph: nn.Module, settings: Settings):
    """Turn a graph into ONNX.

    Args:
        graph (TaskGraph): The graph.
        settings (Settings): Shape, dynamic dimensions and opset.

    Returns:
        onnx.ModelProto: The model.

    Raises:
        ExportError: If torch cannot export the graph, or it has an Einsum node.
    """
    import onnx
    images = torch.rand(*settings.shape) * 255
    axes = {0: 'N'} if 'batch' in settings.dynamic else {}
    if 'size' in settings.dynamic:
        axes.update({2: 'H', 3: 'W'})
    # The outputs' other axes follow from the input's.
    out_axes = {name: {0: 'N'} for name in graph.outputs if 0 in axes}
    file = io.BytesIO()
    # Tracing warns about every size that is read in Python. The check on several
    # sizes finds wrong sizes.
    with converting('torch.onnx', 'torch.onnx', 'torch.jit'):
        torch.onnx.export(
            graph, (images, ),
            file,
            dynamo=False,
            opset_version=settings.opset,
            input_names=['input'],
            output_names=list(graph.outputs),
            dynamic_axes=dict(input=axes, **out_axes))
    model = onnx.load_from_string(file.getvalue())
    count = operators(model)
    if count['Einsum']:
        raise ExportError(
            f'the graph has {count["Einsum"]} Einsum nodes, which runtimes '
            'compute slowly or not at all: use torch.matmul in the model')
    onnx.checker.check_model(model, full_check=True)
    return model


def operators(model) -> Counter:
    """Count the nodes of each type, including nodes of subgraphs.

    Args:
        model (onnx.ModelProto): The model.

    Returns:
        Counter: Number of nodes by type, such as ``'Conv'``.
    """
    count: Counter = Counter()
    graphs = [model.graph]
    while graphs:
        for node in graphs.pop().node:
            count[node.op_type] += 1
            graphs += [a.g for a in node.attribute if a.HasField('g')]
    return count

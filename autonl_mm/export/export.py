# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Export of a task model to ONNX, with a check against PyTorch."""
import copy
import io
from collections import Counter
from typing import Dict, List, NamedTuple, Sequence, Tuple

import torch
import torch.nn as nn
from torch import Tensor

from autonl_mm.deploy import switch_to_deploy
from autonl_mm.models.layers import light_nl_scales

from .graphs import graph_type
from .onnx_file import OnnxSession, first_line, quiet, require, set_info

DYNAMIC = ('batch', 'size')


class Difference(NamedTuple):
    """Difference between the outputs of a file and of the model.

    Attributes:
        shape (tuple[int, ...]): Shape of the images, ``(N, 3, H, W)``.
        absolute (float): Largest absolute difference of the outputs.
        relative (float): ``absolute`` divided by the largest output.
    """
    shape: Tuple[int, ...]
    absolute: float
    relative: float


class ExportError(RuntimeError):
    """The model cannot be exported, or the exported graph is wrong."""


def make_graph(model: nn.Module,
               dynamic: Sequence[str] = (),
               labels: bool = False) -> nn.Module:
    """Make the graph of a model, in deploy form.

    Args:
        model (nn.Module): A task model; it is not changed.
        dynamic (Sequence[str]): Dimensions that may change between runs, from
            :data:`DYNAMIC`. Defaults to ().
        labels (bool): Whether a segmentor gives label maps instead of logits.
            Defaults to False.

    Returns:
        TaskGraph: The graph, in eval mode.

    Raises:
        ValueError: If the model cannot be exported.
    """
    kind = graph_type(model, labels)
    graph = kind(switch_to_deploy(copy.deepcopy(model)))
    if 'size' in dynamic:
        graph.use_channel_order()
    return graph.eval()


def to_onnx(graph: nn.Module,
            shape: Sequence[int],
            dynamic: Sequence[str] = (),
            opset: int = 17,
            info: Dict = {}) -> bytes:
    """Turn a graph into ONNX.

    Args:
        graph (TaskGraph): See :func:`make_graph`.
        shape (Sequence[int]): ``N, 3, H, W`` of the images.
        dynamic (Sequence[str]): Dimensions that may change between runs, from
            :data:`DYNAMIC`. Defaults to ().
        opset (int): ONNX opset version. Defaults to 17.
        info (dict): Metadata to store in the file beside its task and the
            scales of its LightNLs. Defaults to {}.

    Returns:
        bytes: The content of the ONNX file.

    Raises:
        ExportError: If torch cannot export the graph, or it has an Einsum node.
    """
    onnx = require('onnx')
    images = torch.rand(*shape) * 255
    axes = {0: 'N'} if 'batch' in dynamic else {}
    if 'size' in dynamic:
        axes.update({2: 'H', 3: 'W'})
    # The other axes of the outputs follow from these.
    out_axes = {name: {0: 'N'} for name in graph.outputs if 0 in axes}
    file = io.BytesIO()
    try:
        # Tracing warns about every size that is read in Python. The check on
        # several sizes finds those that matter.
        with quiet('torch.onnx', 'torch.jit'):
            torch.onnx.export(
                graph, (images, ),
                file,
                dynamo=False,
                opset_version=opset,
                input_names=['input'],
                output_names=list(graph.outputs),
                dynamic_axes=dict(input=axes, **out_axes))
    except Exception as e:  # torch's errors have no common class
        raise ExportError(
            f'torch.onnx cannot export the {graph.task} graph: '
            f'{first_line(e)}') from e
    model = onnx.load_from_string(file.getvalue())
    count = operators(model)
    if count['Einsum']:
        raise ExportError(
            f'the graph has {count["Einsum"]} Einsum nodes, which runtimes '
            'compute slowly or not at all: use torch.matmul in the model')
    set_info(model, dict(info, task=graph.task,
                         light_nl_scales=light_nl_scales(graph)))
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def operators(model) -> Counter:
    """Count the nodes of each type, including those in subgraphs.

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


def compare(session: OnnxSession,
            graph: nn.Module,
            model: nn.Module,
            batches: Sequence[Tensor],
            tolerance: float) -> List[Difference]:
    """Compare a file with the model from which it was exported.

    Args:
        session (OnnxSession): The file.
        graph (TaskGraph): The graph of the file.
        model (nn.Module): The model, not in deploy form.
        batches (Sequence[Tensor]): Images ``(N, 3, H, W)``.
        tolerance (float): Largest allowed difference, relative to the largest
            output.

    Returns:
        list[Difference]: One for each batch.

    Raises:
        ExportError: If the outputs differ by more, or are not finite.
        ValueError: If the images do not allow a comparison.
    """
    results = []
    for images in batches:
        shape = 'x'.join(map(str, images.shape))
        with torch.no_grad():
            expected = graph.reference(model, images)
        try:
            got = session(images)
        except Exception as e:  # onnxruntime's errors have no common class
            raise ExportError(f'onnxruntime cannot run the file on images of '
                              f'{shape}: {first_line(e)}') from e
        absolute, scale = graph.difference(got, expected)
        difference = Difference(
            tuple(images.shape), absolute, absolute / max(scale, 1e-12))
        if not difference.relative <= tolerance:  # NaN too
            raise ExportError(
                f'on images of {shape} the outputs of onnxruntime and '
                f'PyTorch differ by {absolute:.3g}, which is '
                f'{difference.relative:.3g} of the largest output and more than '
                f'the tolerance of {tolerance:g}')
        results.append(difference)
    return results

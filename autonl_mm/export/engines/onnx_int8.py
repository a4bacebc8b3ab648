# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Static INT8 quantisation of an ONNX model by onnxruntime."""
import re
import tempfile
from pathlib import Path
from typing import Iterator, List, Sequence, Tuple

import numpy as np

from .base import quiet

METHODS = dict(minmax='MinMax', entropy='Entropy', percentile='Percentile')
# INT8 makes these faster. Elementwise operators and those that select boxes stay
# in float.
OPERATORS = ('Conv', 'Gemm', 'MatMul')
# LightNL is cubic in its input, so it multiplies relative errors of eight bits.
# With scale='rms' it is not.
EXCLUDE = ('light_nl', )


class Calibration:
    """Reader of calibration images for onnxruntime.

    Args:
        name (str): Name of the input.
        batches (Sequence[np.ndarray]): Images in batches.
    """

    def __init__(self, name: str, batches: Sequence[np.ndarray]):
        self.name = name
        self.batches: Iterator[np.ndarray] = iter(batches)

    def get_next(self):
        """The next input, or None after the last."""
        batch = next(self.batches, None)
        return None if batch is None else {self.name: batch}


def is_cubic(info: dict) -> bool:
    """Whether a file has LightNL with the paper's scale.

    Args:
        info (dict): What the file says about itself. Files from before there were two
            scales do not say it: theirs is the paper's.
    """
    return 'paper' in info.get('light_nl_scales', ['paper'])


def default_exclude(info: dict) -> Sequence[str]:
    """Names of nodes that stay in float.

    Args:
        info (dict): What a file says about itself.
    """
    return EXCLUDE if is_cubic(info) else ()


def quantize_static(model,
                    batches: List[np.ndarray],
                    exclude: Sequence[str] = (),
                    operators: Sequence[str] = OPERATORS,
                    method: str = 'minmax',
                    reduce_range: bool = False) -> Tuple[object, int]:
    """Quantise a model to INT8.

    It gets QDQ nodes, weights quantised per channel, and unsigned activations.

    Args:
        model (onnx.ModelProto): The model.
        batches (list[np.ndarray]): Images to calibrate on, ``(N, C, H, W)``.
        exclude (Sequence[str]): Regular expressions. Nodes whose names match one
            are not quantised. Defaults to ().
        operators (Sequence[str]): Types of nodes to quantise. Defaults to
            :data:`OPERATORS`.
        method (str): How ranges are found: a key of :data:`METHODS`. Defaults
            to ``'minmax'``.
        reduce_range (bool): Whether to use seven bits for weights, for
            processors without VNNI, on which sums of eight-bit products
            saturate. Defaults to False.

    Returns:
        tuple[onnx.ModelProto, int]: The model, and how many of its nodes are
        quantised.

    Raises:
        ValueError: If no node would be quantised.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization import shape_inference

    # onnxruntime logs to the root logger
    with tempfile.TemporaryDirectory() as folder, quiet(''):
        ready, out = Path(folder) / 'ready.onnx', Path(folder) / 'int8.onnx'
        shape_inference.quant_pre_process(model, ready, skip_symbolic_shape=True)
        nodes = [node for node in onnx.load(ready).graph.node
                 if node.op_type in operators]
        excluded = [
            node.name for node in nodes
            if any(re.search(pattern, node.name) for pattern in exclude)
        ]
        if len(excluded) == len(nodes):
            raise ValueError(
                f'nothing is left to quantise: the file has {len(nodes)} nodes '
                f'of type {", ".join(operators)}, and {list(exclude)} exclude '
                'all of them')
        quantization.quantize_static(
            ready,
            out,
            Calibration(model.graph.input[0].name, batches),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(operators),
            nodes_to_exclude=excluded,
            per_channel=True,
            reduce_range=reduce_range,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=getattr(quantization.CalibrationMethod,
                                     METHODS[method]))
        return onnx.load(out), len(nodes) - len(excluded)

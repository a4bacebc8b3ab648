# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Static INT8 quantisation of an ONNX model by onnxruntime."""
import re
import tempfile
from pathlib import Path
from typing import Dict, Iterator, List, Sequence, Tuple

import numpy as np

from .base import quiet, usual_range

# onnxruntime's method by name. quantile is our own and overrides all ranges.
METHODS = dict(
    quantile='MinMax', minmax='MinMax', entropy='Entropy', percentile='Percentile')
DEFAULT_METHOD = 'quantile'
# Methods that put the feature maps of all images into one array.
HISTOGRAMS = ('entropy', 'percentile')
# Quantised operators. Elementwise operators and NMS stay in float.
OPERATORS = ('Conv', 'Gemm', 'MatMul')
# LightNL with normalize='size' is cubic in its input, so it multiplies the relative
# errors of eight bits.
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
    """Whether an exported model has LightNL with ``normalize='size'``.

    Args:
        info (dict): Its metadata.
    """
    return 'paper' in info['light_nl_scales']


def default_exclude(info: dict) -> Sequence[str]:
    """Regular expressions for nodes that stay in float.

    Args:
        info (dict): Metadata of the exported model.
    """
    return EXCLUDE if is_cubic(info) else ()


def quantize_static(model,
                    batches: List[np.ndarray],
                    exclude: Sequence[str] = (),
                    method: str = DEFAULT_METHOD,
                    reduce_range: bool = True) -> Tuple[object, int]:
    """Quantise a model to INT8.

    The result has QDQ nodes, weights quantised per channel, unsigned activations.

    Args:
        model (onnx.ModelProto): The model.
        batches (list[np.ndarray]): Images to calibrate on, ``(N, C, H, W)``.
        exclude (Sequence[str]): Regular expressions. Nodes whose names match one
            are not quantised. Defaults to ().
        method (str): How ranges are found, a key of :data:`METHODS`. Defaults to
            ``'quantile'``, see :func:`~.base.usual_range`.
        reduce_range (bool): Whether to use seven bits for weights. With eight, sums
            of products saturate on x86 processors without VNNI. Defaults to True.

    Returns:
        tuple[onnx.ModelProto, int]: The model, and the number of quantised nodes.

    Raises:
        ValueError: If no node would be quantised.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization import shape_inference

    options = {}
    # onnxruntime logs to the root logger
    with tempfile.TemporaryDirectory() as folder, quiet(''):
        ready, out = Path(folder) / 'ready.onnx', Path(folder) / 'int8.onnx'
        shape_inference.quant_pre_process(model, ready, skip_symbolic_shape=True)
        prepared = onnx.load(ready)
        nodes = [node for node in prepared.graph.node if node.op_type in OPERATORS]
        excluded = [
            node.name for node in nodes
            if any(re.search(pattern, node.name) for pattern in exclude)
        ]
        if len(excluded) == len(nodes):
            raise ValueError(
                f'nothing is left to quantise: the file has {len(nodes)} nodes '
                f'of type {", ".join(OPERATORS)}, and {list(exclude)} exclude '
                'all of them')
        if method == 'quantile':
            options['TensorQuantOverrides'] = _ranges(prepared, batches)
            batches = batches[:1]  # their ranges are not used
        quantization.quantize_static(
            ready,
            out,
            Calibration(model.graph.input[0].name, batches),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(OPERATORS),
            nodes_to_exclude=excluded,
            per_channel=True,
            reduce_range=reduce_range,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=getattr(quantization.CalibrationMethod,
                                     METHODS[method]),
            extra_options=options)
        return onnx.load(out), len(nodes) - len(excluded)


def _ranges(model, batches: List[np.ndarray]) -> Dict[str, List[dict]]:
    """Ranges of the quantised nodes' inputs and outputs, in onnxruntime's form.

    Args:
        model (onnx.ModelProto): The model; it is changed.
        batches (list[np.ndarray]): Images to calibrate on.

    Returns:
        dict[str, list[dict]]: Least and largest value by the feature map's name.
    """
    from onnx import helper
    from onnxruntime import InferenceSession, SessionOptions

    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    names = list(dict.fromkeys(
        name for node in graph.node if node.op_type in OPERATORS
        for name in (*node.input, *node.output) if name and name not in weights))
    ends = [f'{name}/{kind}' for kind in ('Min', 'Max') for name in names]
    for end in ends:
        name, _, kind = end.rpartition('/')
        graph.node.append(helper.make_node(f'Reduce{kind}', [name], [end], keepdims=0))
        graph.output.append(helper.make_tensor_value_info(end, 1, None))
    options = SessionOptions()
    options.log_severity_level = 3
    session = InferenceSession(
        model.SerializeToString(), options, providers=['CPUExecutionProvider'])
    values = np.array([session.run(ends, {graph.input[0].name: batch})
                       for batch in batches])
    low, high = usual_range(*np.split(values, 2, axis=1))
    return {name: [dict(rmin=np.float32(min(a, 0)), rmax=np.float32(max(b, 0)))]
            for name, a, b in zip(names, low, high)}

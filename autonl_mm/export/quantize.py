# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Static INT8 quantisation of an ONNX file by onnxruntime."""
import re
import tempfile
from pathlib import Path
from typing import List, Sequence

import torch
from torch import Tensor

from .onnx_file import OnnxSession, quiet, require, set_info

METHODS = dict(minmax='MinMax', entropy='Entropy', percentile='Percentile')
# What INT8 makes faster. Elementwise operators, and those that choose boxes,
# stay in float.
OPERATORS = ('Conv', 'Gemm', 'MatMul')
# A logit beyond the median image's largest by this factor is an outlier's.
OUTLIER = 10
# LightNL is cubic in its input, and so are the relative errors of eight bits.
EXCLUDE = ('light_nl', )


class Calibration:
    """Images in the form in which onnxruntime asks for them.

    Args:
        session (OnnxSession): The file.
        images (list[Tensor]): ``(3, H, W)`` each.
    """

    def __init__(self, session: OnnxSession, images: List[Tensor]):
        step = session.batch or 1
        self.name = session.input.name
        self.batches = iter([
            images[i:i + step] for i in range(0, len(images), step)
            if i + step <= len(images)
        ])

    def get_next(self):
        """The next input, or None after the last."""
        batch = next(self.batches, None)
        if batch is None:
            return None
        return {self.name: torch.stack(batch).numpy()}


def without_outliers(session: OnnxSession,
                     images: List[Tensor]) -> List[Tensor]:
    """The images on which a network's logits are of the usual size.

    LightNL is cubic in its input: on a few images in a thousand the maps of a
    trained network explode, by many orders of magnitude. Ranges that hold them
    leave no steps for the rest.

    Args:
        session (OnnxSession): The network.
        images (list[Tensor]): ``(3, H, W)`` each.

    Returns:
        list[Tensor]: Those whose largest logit is at most :data:`OUTLIER`
        times the median image's; all if the file gives no logits.

    Raises:
        ValueError: If not one image has finite logits.
    """
    if session.outputs[0] != 'logits':
        return images
    step = session.batch or 1  # of other images the sizes may differ
    largest = torch.cat([
        session(torch.stack(images[i:i + step]))[0].flatten(1).abs().amax(1)
        for i in range(0, len(images), step)
    ])
    finite = largest[largest.isfinite()]
    if not len(finite):
        raise ValueError(f'the logits of all {len(images)} images are NaN '
                         'or infinite: the network or the images are broken')
    usual = largest <= OUTLIER * finite.median()  # not if it is NaN
    return [p for p, keep in zip(images, usual) if keep]


def quantize(file: str,
             images: List[Tensor],
             method: str = 'minmax',
             operators: Sequence[str] = OPERATORS,
             exclude: Sequence[str] = EXCLUDE,
             reduce_range: bool = False) -> bytes:
    """Quantise a file: QDQ, weights by channel, activations unsigned.

    Args:
        file (str): What ``tools/deployment/export_onnx.py`` wrote.
        images (list[Tensor]): To calibrate on, ``(3, H, W)`` each, at sizes
            that the file takes.
        method (str): Of :data:`METHODS`, how ranges are found. Defaults to
            ``'minmax'``.
        operators (Sequence[str]): Kinds of nodes to quantise. Defaults to
            :data:`OPERATORS`.
        exclude (Sequence[str]): Regular expressions; nodes in whose names one
            is found are not quantised. Defaults to :data:`EXCLUDE`.
        reduce_range (bool): Whether weights get seven bits, for processors
            without VNNI, whose sums of eight-bit products saturate. Defaults
            to False.

    Returns:
        bytes: The content of the quantised file.

    Raises:
        ValueError: If the file is quantised already, if nothing of it would
            be, or if there are fewer images than it takes at a time.
    """
    onnx = require('onnx')
    quantization = require('onnxruntime.quantization')
    preprocess = require('onnxruntime.quantization.shape_inference')
    session = OnnxSession(file)
    if session.info.get('quantised'):
        raise ValueError(f'{file} is quantised already: give the file that '
                         'it was made of')
    if len(images) < (session.batch or 1):
        raise ValueError(f'{len(images)} images to calibrate on, expected '
                         f'at least {session.batch or 1}, which the file '
                         'takes at a time')
    # onnxruntime logs to the root
    with tempfile.TemporaryDirectory() as folder, quiet(''):
        ready, out = Path(folder) / 'ready.onnx', Path(folder) / 'int8.onnx'
        preprocess.quant_pre_process(file, ready, skip_symbolic_shape=True)
        nodes = [node for node in onnx.load(ready).graph.node
                 if node.op_type in operators]
        excluded = [node.name for node in nodes
                    if any(re.search(e, node.name) for e in exclude)]
        if len(excluded) == len(nodes):
            raise ValueError(
                f'nothing is left to quantise: the file has {len(nodes)} nodes '
                f'of {", ".join(operators)}, all of them excluded by '
                f'{list(exclude)}')
        quantization.quantize_static(
            ready,
            out,
            Calibration(session, images),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(operators),
            nodes_to_exclude=excluded,
            per_channel=True,
            reduce_range=reduce_range,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=getattr(quantization.CalibrationMethod,
                                     METHODS[method]))
        model = onnx.load(out)
    set_info(model, dict(session.info, quantised=len(nodes) - len(excluded)))
    return model.SerializeToString()

# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Static INT8 quantisation of an ONNX file by onnxruntime."""
import re
import tempfile
from pathlib import Path
from typing import List, Optional, Sequence

import torch
from torch import Tensor

from .onnx_file import OnnxSession, quiet, require, set_info

METHODS = dict(minmax='MinMax', entropy='Entropy', percentile='Percentile')
# INT8 makes these faster. Elementwise operators and those that select boxes stay
# in float.
OPERATORS = ('Conv', 'Gemm', 'MatMul')
OPSET = 13  # the first in which QuantizeLinear has an axis
# An image is an outlier if its largest logit exceeds that of the median image by
# this factor.
OUTLIER = 10
# LightNL is cubic in its input, so it multiplies relative errors of eight bits.
# With scale='rms' it is not.
EXCLUDE = ('light_nl', )


class Calibration:
    """Reader of calibration images for onnxruntime.

    Args:
        session (OnnxSession): The file.
        images (list[Tensor]): Images of ``(3, H, W)``.
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


def is_cubic(session: OnnxSession) -> bool:
    """Whether a file has LightNL with the paper's scale; true if it does not say.

    Args:
        session (OnnxSession): The file.
    """
    return 'paper' in session.info.get('light_nl_scales', ['paper'])


def without_outliers(session: OnnxSession,
                     images: List[Tensor]) -> List[Tensor]:
    """Remove images on which a network's logits are unusually large.

    LightNL with the paper's scale is cubic in its input: on a few images in a
    thousand the feature maps of a trained network grow by many orders of
    magnitude. A quantisation range that includes them has too few steps for
    all other images. Without such a LightNL nothing is removed.

    Args:
        session (OnnxSession): The network.
        images (list[Tensor]): Images of ``(3, H, W)``.

    Returns:
        list[Tensor]: The images whose largest logit is at most
        :data:`OUTLIER` times that of the median image. All images if the file
        does not give logits, or has no LightNL with the paper's scale.

    Raises:
        ValueError: If no image has finite logits.
    """
    if session.outputs[0] != 'logits' or not is_cubic(session):
        return images
    step = session.batch or 1  # image sizes may differ if it is not fixed
    largest = torch.cat([
        session(torch.stack(images[i:i + step]))[0].flatten(1).abs().amax(1)
        for i in range(0, len(images), step)
    ])
    finite = largest[largest.isfinite()]
    if not len(finite):
        raise ValueError(f'the logits of all {len(images)} images are NaN '
                         'or infinite: the network or the images are broken')
    usual = largest <= OUTLIER * finite.median()  # False for NaN
    return [image for image, keep in zip(images, usual) if keep]


def quantize(file: str,
             images: List[Tensor],
             method: str = 'minmax',
             operators: Sequence[str] = OPERATORS,
             exclude: Optional[Sequence[str]] = None,
             reduce_range: bool = False) -> bytes:
    """Quantise a file to INT8.

    The file gets QDQ nodes, weights quantised per channel, and unsigned
    activations.

    Args:
        file (str): A file of ``tools/deployment/export_onnx.py``.
        images (list[Tensor]): Images to calibrate on, ``(3, H, W)``, at sizes
            that the file takes.
        method (str): How ranges are found: a key of :data:`METHODS`. Defaults
            to ``'minmax'``.
        operators (Sequence[str]): Types of nodes to quantise. Defaults to
            :data:`OPERATORS`.
        exclude (Sequence[str], optional): Regular expressions. Nodes whose
            names match one are not quantised. Defaults to None:
            :data:`EXCLUDE` for a file with LightNL of the paper's scale, else
            none.
        reduce_range (bool): Whether to use seven bits for weights, for
            processors without VNNI, on which sums of eight-bit products
            saturate. Defaults to False.

    Returns:
        bytes: The content of the quantised file.

    Raises:
        ValueError: If the file is already quantised or of an opset without
            quantisation per channel, if no node would be quantised, or if there
            are fewer images than its batch size.
    """
    onnx = require('onnx')
    quantization = require('onnxruntime.quantization')
    preprocess = require('onnxruntime.quantization.shape_inference')
    session = OnnxSession(file)
    if exclude is None:
        exclude = EXCLUDE if is_cubic(session) else ()
    if session.info.get('quantised'):
        raise ValueError(f'{file} is already quantised: give the file from '
                         'which it was made')
    opset = max((o.version for o in onnx.load(file).opset_import
                 if o.domain in ('', 'ai.onnx')), default=0)
    if opset < OPSET:
        raise ValueError(f'{file} is of opset {opset}, but quantisation per channel '
                         f'needs {OPSET} or later: export it again with --opset '
                         f'{OPSET} or without this option')
    if len(images) < (session.batch or 1):
        raise ValueError(f'{len(images)} images to calibrate on, expected '
                         f'at least {session.batch or 1}, the batch size of '
                         'the file')
    # onnxruntime logs to the root logger
    with tempfile.TemporaryDirectory() as folder, quiet(''):
        ready, out = Path(folder) / 'ready.onnx', Path(folder) / 'int8.onnx'
        preprocess.quant_pre_process(file, ready, skip_symbolic_shape=True)
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

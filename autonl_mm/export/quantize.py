# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Calibration images, and INT8 quantisation of an exported ONNX model."""
from pathlib import Path
from typing import Callable, List, Optional, Sequence

import torch
from torch import Tensor

from .engines import ENGINES
from .engines.base import Session, Settings, calibration_batches
from .engines.onnx_int8 import (
    DEFAULT_METHOD,
    HISTOGRAMS,
    default_exclude,
    is_cubic,
    quantize_static,
)
from .engines.onnxruntime import set_info
from .images import to_batch

OPSET = 13  # first opset in which QuantizeLinear has an axis
# An image is an outlier if its largest logit exceeds the median image's largest logit
# by this factor.
OUTLIER = 10


def has_outliers(outputs: Sequence[str], info: dict) -> bool:
    """Whether a model's logits can be unusually large on some images.

    Args:
        outputs (Sequence[str]): Names of its outputs.
        info (dict): Metadata, see :class:`autonl_mm.export.engines.Session`.
    """
    return outputs[0] == 'logits' and is_cubic(info)


def without_outliers(run: Callable, images: List[Tensor],
                     step: int = 1) -> List[Tensor]:
    """Remove images on which a model's logits are unusually large.

    LightNL with ``normalize='size'`` is cubic in its input. On a few images in a
    thousand the feature maps of a trained network grow by many orders of magnitude.
    A quantisation range that includes them has too few steps for all other images.

    Args:
        run (Callable): Returns a list with the logits of images ``(N, C, H, W)``.
        images (list[Tensor]): Images of ``(C, H, W)``.
        step (int): N. Defaults to 1, for images of several sizes.

    Returns:
        list[Tensor]: The images whose largest logit is at most :data:`OUTLIER` times
        the median image's largest logit.

    Raises:
        ValueError: If no image has finite logits.
    """
    with torch.no_grad():
        largest = torch.cat([
            run(torch.stack(images[i:i + step]))[0].flatten(1).abs().amax(1)
            for i in range(0, len(images), step)
        ])
    finite = largest[largest.isfinite()]
    if not len(finite):
        raise ValueError(f'the logits of all {len(images)} images are NaN '
                         'or infinite: the network or the images are broken')
    usual = largest <= OUTLIER * finite.median()  # False for NaN
    return [image for image, keep in zip(images, usual) if keep]


def usual_images(session: Session, images: List[Tensor]) -> List[Tensor]:
    """Remove outliers for an exported model that can have them.

    Args:
        session (Session): The exported model.
        images (list[Tensor]): Images of ``(C, H, W)``.

    Returns:
        list[Tensor]: All images if :func:`has_outliers` is false; else see
        :func:`without_outliers`.
    """
    if not has_outliers(session.outputs, session.info):
        return images
    step = session.batch or 1
    if len({image.shape for image in images}) > 1:
        step = 1
    return without_outliers(session, images, step)


def quantize(file: str,
             images: List[Tensor],
             method: str = DEFAULT_METHOD,
             exclude: Optional[Sequence[str]] = None,
             reduce_range: bool = True) -> bytes:
    """Quantise an exported ONNX model to INT8.

    Args:
        file (str): The exported model.
        images (list[Tensor]): Calibration images ``(C, H, W)`` of sizes that the
            model takes. Images of several sizes are resized to the first image's
            size for a fixed batch size and for :data:`HISTOGRAMS`.
        method (str): How ranges are found, see
            :func:`autonl_mm.export.engines.onnx_int8.quantize_static`. Defaults to
            ``'quantile'``.
        exclude (Sequence[str], optional): Regular expressions. Nodes whose names
            match one are not quantised. Defaults to None, which excludes LightNL with
            ``normalize='size'``.
        reduce_range (bool): Whether weights have seven bits. Defaults to True.

    Returns:
        bytes: Content of the quantised file.

    Raises:
        ValueError: If the model is already quantised or has an opset without
            quantisation per channel, if no node would be quantised, or if there
            are fewer images than the model's batch size.
    """
    info = ENGINES['onnxruntime'].info(Path(file))
    import onnx
    if info.get('quantised'):
        raise ValueError(f'{file} is already quantised: give the exported model '
                         'from which it was made')
    model = onnx.load(file)
    opset = max((o.version for o in model.opset_import
                 if o.domain in ('', 'ai.onnx')), default=0)
    if opset < OPSET:
        raise ValueError(f'{file} is of opset {opset}, but quantisation per channel '
                         f'needs {OPSET} or later: export it again with --opset '
                         f'{OPSET} or without this option')
    step = info['input'][0] or 1
    if (step > 1 or method in HISTOGRAMS) and len({x.shape for x in images}) > 1:
        images = list(to_batch(images, len(images), images[0].shape[1:]))
    batches = calibration_batches(Settings((step, ), calibration=images))
    if exclude is None:
        exclude = default_exclude(info)
    model, count = quantize_static(
        model, batches, exclude, method, reduce_range)
    set_info(model, dict(info, quantised=count))
    return model.SerializeToString()

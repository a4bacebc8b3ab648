# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The check of an exported model: its engine's outputs are compared with PyTorch's."""
from pathlib import Path
from typing import List, NamedTuple, Sequence, Tuple

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor

from .engines import ExportError, load
from .engines.base import first_line, run_engine

# Largest sensible output: scores are the softmax or sigmoid of logits, boxes lie in an
# image.
# Larger outputs may agree relatively and still mean nothing.
LARGEST = 1e4


class Difference(NamedTuple):
    """Difference between the outputs of an exported model and of PyTorch.

    Attributes:
        shape (tuple[int, ...]): Shape of the images, ``(N, C, H, W)``.
        absolute (float): Largest absolute difference of the outputs.
        relative (float): ``absolute`` divided by the largest output.
    """
    shape: Tuple[int, ...]
    absolute: float
    relative: float


def run_exported(file: Path, batches: Sequence[Tensor]) -> List[List[Tensor]]:
    """Run an exported model in a subprocess.

    Args:
        file (Path): The main file.
        batches (Sequence[Tensor]): Inputs ``(N, C, H, W)``.

    Returns:
        list[list[Tensor]]: Outputs for each batch.

    Raises:
        ExportError: If the model does not load, or does not run on a batch.
    """
    try:
        results = run_engine(_run_file, str(file), [b.numpy() for b in batches])
    except ExportError as e:
        raise ExportError(f'the exported model cannot be used: {e}') from None
    return [[torch.from_numpy(out) for out in outputs] for outputs in results]


def _run_file(file: str, batches: List[np.ndarray]) -> List[List[np.ndarray]]:
    try:
        session = load(file)
    except Exception as e:  # engines' errors have no common class
        raise ExportError(f'it does not load: {first_line(e)}') from e
    results = []
    for batch in batches:
        try:
            results.append([out.numpy() for out in session(batch)])
        except Exception as e:
            raise ExportError(f'it does not run on images of {size_text(batch)}: '
                              f'{first_line(e)}') from e
    return results


def size_text(images) -> str:
    """Shape of images as ``NxCxHxW``."""
    return 'x'.join(map(str, images.shape))


def check_values(outputs: Sequence[Tensor], source: str) -> None:
    """Refuse outputs that are not finite or larger than :data:`LARGEST`.

    Args:
        outputs (Sequence[Tensor]): The outputs.
        source (str): Where they come from, for the message.

    Raises:
        ExportError: If an output is not finite or too large.
    """
    for out in outputs:
        largest = out.abs().max().item() if out.numel() else 0
        if not out.isfinite().all():
            raise ExportError(f'outputs of {source} are not finite')
        if out.is_floating_point() and largest > LARGEST:
            raise ExportError(
                f'outputs of {source} are as large as {largest:.2g}, expected at most '
                f'{LARGEST:g}: such outputs cannot be compared. LightNL with '
                "normalize='size' can cause them, 'rms' cannot")


def differences(graph: nn.Module, outputs: Sequence[Sequence[Tensor]],
                expected: Sequence[Sequence[Tensor]], batches: Sequence[Tensor],
                tolerance: float, engine: str) -> List[Difference]:
    """Compare outputs of an exported model with PyTorch's.

    Args:
        graph (TaskGraph): The exported graph.
        outputs (Sequence): Outputs of the exported model for each batch.
        expected (Sequence): Outputs of PyTorch for each batch.
        batches (Sequence[Tensor]): Images ``(N, C, H, W)``.
        tolerance (float): Largest allowed difference, relative to the largest
            output.
        engine (str): Name of the engine, for messages.

    Returns:
        list[Difference]: One for each batch.

    Raises:
        ExportError: If the outputs differ by more, are not finite, or too large.
        ValueError: If the images do not allow a comparison, see ``graph``.
    """
    results = []
    for got, wanted, images in zip(outputs, expected, batches):
        shape = size_text(images)
        check_values(wanted, f'PyTorch on images of {shape}')
        check_values(got, f'{engine} on images of {shape}')
        absolute, scale = graph.difference(got, wanted)
        difference = Difference(
            tuple(images.shape), absolute, absolute / max(scale, 1e-12))
        if not difference.relative <= tolerance:  # NaN too
            raise ExportError(
                f'on images of {shape} the outputs of {engine} and '
                f'PyTorch differ by {absolute:.3g}, which is '
                f'{difference.relative:.3g} of the largest output and more than '
                f'the tolerance of {tolerance:g}')
        results.append(difference)
    return results


def agreement(graph: nn.Module, outputs: Sequence[Sequence[Tensor]],
              expected: Sequence[Sequence[Tensor]], minimum: float,
              engine: str) -> float:
    """Compare predictions in lower precision with PyTorch's in float32.

    Args:
        graph (TaskGraph): The exported graph.
        outputs (Sequence): Outputs of the exported model for each batch.
        expected (Sequence): Outputs of PyTorch in float32 for each batch.
        minimum (float): Smallest allowed share.
        engine (str): Name of the engine, for messages.

    Returns:
        float: Share of equal predictions: equal labels of images or pixels, or boxes
        that are found again.

    Raises:
        ExportError: If the share is smaller, or outputs are not finite or too large.
        ValueError: If the images do not allow a comparison, see ``graph``.
    """
    for got, wanted in zip(outputs, expected):
        check_values(wanted, 'PyTorch')
        check_values(got, engine)
        if [tuple(out.shape[:1]) for out in got] != [
                tuple(out.shape[:1]) for out in wanted]:
            raise ExportError(f'{engine} gives outputs of another shape than PyTorch')
    counts = [graph.agreement(got, wanted) for got, wanted in zip(outputs, expected)]
    share = sum(n for n, _ in counts) / sum(n for _, n in counts)
    if share < minimum:
        raise ExportError(
            f'{share:.1%} of the predictions of {engine} are those of PyTorch in '
            f'float32, expected at least {minimum:.0%}')
    return share

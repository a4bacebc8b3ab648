# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The check of an exported file: it is run in its engine and compared with PyTorch."""
from pathlib import Path
from typing import List, NamedTuple, Sequence, Tuple

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor

from .apart import run_in_subprocess
from .engines import ExportError, load
from .engines.base import first_line

# Outputs beyond this mean nothing, although they may agree relatively: scores are the
# softmax of logits, and boxes lie in an image.
LARGEST = 1e4


class Difference(NamedTuple):
    """Difference between the outputs of a file and of the model.

    Attributes:
        shape (tuple[int, ...]): Shape of the images, ``(N, C, H, W)``.
        absolute (float): Largest absolute difference of the outputs.
        relative (float): ``absolute`` divided by the largest output.
    """
    shape: Tuple[int, ...]
    absolute: float
    relative: float


def run_apart(file: Path, batches: Sequence[Tensor]) -> List[List[Tensor]]:
    """Run a file in a process of its own.

    Args:
        file (Path): The file.
        batches (Sequence[Tensor]): What the file takes, ``(N, C, H, W)`` each.

    Returns:
        list[list[Tensor]]: Outputs of each batch.

    Raises:
        ExportError: If the file does not load, or does not run on a batch.
    """
    try:
        results = run_in_subprocess(_run_file, str(file), [b.numpy() for b in batches])
    except ExportError as e:
        raise ExportError(f'the file cannot be used: {e}') from None
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
    """``NxCxHxW`` of images."""
    return 'x'.join(map(str, images.shape))


def check_values(outputs: Sequence[Tensor], source: str) -> None:
    """Refuse outputs that are not finite or insanely large.

    Args:
        outputs (Sequence[Tensor]): The outputs.
        source (str): Whose they are, for the message.

    Raises:
        ExportError: If they are.
    """
    for out in outputs:
        largest = out.abs().max().item() if out.numel() else 0
        if not out.isfinite().all():
            raise ExportError(f'outputs of {source} are not finite')
        if out.is_floating_point() and largest > LARGEST:
            raise ExportError(
                f'outputs of {source} are as large as {largest:.2g}, expected at most '
                f'{LARGEST:g}: with such numbers nothing can be compared. LightNL with '
                "normalize='size' grows so on some images; with 'rms' it does not")


def differences(graph: nn.Module, outputs: Sequence[Sequence[Tensor]],
                expected: Sequence[Sequence[Tensor]], batches: Sequence[Tensor],
                tolerance: float, engine: str) -> List[Difference]:
    """Compare outputs of a file with those of the model.

    Args:
        graph (TaskGraph): The graph of the file.
        outputs (Sequence): What the file gave for each batch.
        expected (Sequence): What the model gave for each batch.
        batches (Sequence[Tensor]): Images ``(N, C, H, W)``.
        tolerance (float): Largest allowed difference, relative to the largest
            output.
        engine (str): Name of the engine, for messages.

    Returns:
        list[Difference]: One for each batch.

    Raises:
        ExportError: If the outputs differ by more, are not finite, or too large.
        ValueError: If the images do not allow a comparison.
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
    """Compare predictions of a file of lower precision with those of the model.

    Args:
        graph (TaskGraph): The graph of the file.
        outputs (Sequence): What the file gave for each batch.
        expected (Sequence): What the model gave for each batch, in float32.
        minimum (float): Smallest allowed share.
        engine (str): Name of the engine, for messages.

    Returns:
        float: Share of equal predictions: of the class of images or pixels, or of
        boxes that are found again.

    Raises:
        ExportError: If fewer are equal, or outputs are not finite or too large.
        ValueError: If the images do not allow a comparison.
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
            f'{share:.1%} of the predictions of {engine} are those of float32 in '
            f'PyTorch, expected at least {minimum:.0%}')
    return share

# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Forward passes and training steps of networks, as functions to measure."""
import contextlib
import tempfile
from pathlib import Path
from typing import Callable, Sequence

import torch
import torch.nn as nn
from torch import Tensor
from torch._inductor import config as inductor_config

from autonl_mm.deploy import switch_to_deploy
from autonl_mm.export.bare import load_bare, write_bare

# Forward passes on a CPU with each block as one operator
FUSED = ('fused', 'fused-compile')
FORMS = ('eager', 'compile', *FUSED, 'onnxruntime')


def noise(batch_size: int, height: int, width: int, device: str = 'cpu') -> Tensor:
    """A batch of noise in channels_last, ``(N, 3, H, W)``."""
    x = torch.randn(batch_size, 3, height, width, device=device)
    return x.contiguous(memory_format=torch.channels_last)


def without_grad(model: nn.Module, x: Tensor) -> Callable:
    """A forward pass of an unchanged model, without gradients."""

    def step():
        with torch.no_grad():
            return model(x)

    return step


def as_cuda_graph(call: Callable) -> Callable:
    """A call whose kernels are recorded once, and then started all at once.

    Args:
        call (Callable): Works on the same tensors each time and waits for none.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # what the first calls initialise is not recorded
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()

    def replay(call=call):  # the graph reads the memory of its tensors
        graph.replay()

    return replay


def inference(model: nn.Module, x: Tensor, form: str = 'eager',
              dtype: torch.dtype = torch.bfloat16) -> Callable:
    """A forward pass in deploy form and channels_last; on a GPU in ``dtype``.

    Args:
        model (nn.Module): The network; it is changed in place.
        x (Tensor): The batch; the network is put on its device.
        form (str): One of :data:`FORMS`, or ``'graph'``, a CUDA graph. Defaults to
            ``'eager'``.
        dtype (torch.dtype): Of weights and images on a GPU. Defaults to bfloat16.

    Returns:
        Callable: The forward pass.
    """
    if form == 'onnxruntime':
        return _in_onnxruntime(model, tuple(x.shape))
    switch_to_deploy(model, form in FUSED)
    model.to(x.device, memory_format=torch.channels_last)
    if x.is_cuda:
        model, x = model.to(dtype), x.to(dtype)
    step = without_grad(model, x)
    if 'compile' in form:
        step = without_grad(torch.compile(model), x)
        # Freezing packs weights and fuses activations into convolutions, which is
        # fastest on a CPU. (As an option of torch.compile it does nothing.)
        with inductor_config.patch(freezing=not x.is_cuda):
            step()
    return as_cuda_graph(step) if form == 'graph' else step


def training(model: nn.Module, x: Tensor, form: str = 'eager',
             dtype: torch.dtype = torch.bfloat16) -> Callable:
    """A training step in channels_last; on a GPU under autocast.

    Args:
        model (nn.Module): The network; it is changed in place.
        x (Tensor): The batch; the network is put on its device.
        form (str): ``'eager'``, ``'compile'``, or ``'graph'``, forward and backward
            pass as a CUDA graph. Defaults to ``'eager'``.
        dtype (torch.dtype): Of autocast; the loss is scaled in float16. Defaults to
            bfloat16.

    Returns:
        Callable: Forward pass, backward pass and step of the optimiser.
    """
    model = model.to(x.device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    run = torch.compile(model) if form == 'compile' else model
    amp = torch.autocast('cuda', dtype) if x.is_cuda else contextlib.nullcontext()
    scaler = torch.amp.GradScaler(enabled=x.is_cuda and dtype == torch.float16)

    def gradients():
        optimizer.zero_grad()
        with amp:
            loss = run(x).float().square().mean()
        scaler.scale(loss).backward()

    if form == 'graph':
        gradients = as_cuda_graph(gradients)

    def step():
        gradients()
        scaler.step(optimizer)
        scaler.update()

    return step


def _in_onnxruntime(model: nn.Module, shape: Sequence[int]) -> Callable:
    folder = tempfile.TemporaryDirectory()
    file = Path(folder.name) / 'network.onnx'
    write_bare('onnxruntime', model, shape, file)
    run = load_bare('onnxruntime', shape, file)

    def step(folder=folder):  # removed with the step
        return run()

    return step

# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""LightNL as one operator on a CPU, compiled when it is first asked for."""
import hashlib
import os
import platform
import subprocess
import tempfile
from pathlib import Path
from typing import Optional

import torch
from torch import Tensor

from autonl_mm.cost import light_nl_order

SOURCE = Path(__file__).with_name('light_nl.cpp')
FLAGS = ('-std=c++20', '-O3', '-ffp-contract=fast', '-fopenmp', '-fPIC', '-shared')


def load_fused_light_nl() -> None:
    """Make :func:`fused_light_nl` work; the first time this compiles it.

    That takes a quarter of a minute, and the result is kept in
    ``~/.cache/autonl_mm``, for all processors of the architecture. (Not by
    ``torch.utils.cpp_extension``: it needs ninja on the path, and a process
    that is killed while it compiles leaves a lock that others wait for.)

    Raises:
        RuntimeError: If there is no C++ compiler (``c++``, or what ``CXX``
            names), or it fails.
    """
    if hasattr(torch.ops.autonl_mm, 'light_nl'):
        return
    key = '\n'.join((SOURCE.read_text(), *FLAGS, torch.__version__,
                     platform.machine()))
    cache = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
    library = (cache / 'autonl_mm' /
               f'light_nl-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so')
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        # Other processes see the whole library or none.
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            part = Path(folder) / library.name
            _compile(part)
            part.replace(library)
    torch.ops.load_library(str(library))


def _compile(out: Path) -> None:
    compiler = os.environ.get('CXX') or 'c++'
    root = Path(torch.__file__).parent
    abi = int(torch.compiled_with_cxx11_abi())
    command = [
        *compiler.split(), *FLAGS, f'-D_GLIBCXX_USE_CXX11_ABI={abi}',
        str(SOURCE), '-o', str(out), '-isystem', str(root / 'include'),
        f'-L{root / "lib"}', '-ltorch_cpu', '-lc10'
    ]
    try:
        result = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    except OSError as e:
        raise RuntimeError(
            f'the fused LightNL needs a C++ compiler, but {compiler!r} does not '
            'start: install g++, or name one by the environment variable '
            f'CXX ({e})') from e
    if result.returncode:
        raise RuntimeError('the fused LightNL did not compile: '
                           f'{" ".join(command)}\n{result.stdout[-2000:]}')


def fused_light_nl(x: Tensor,
                   weight: Tensor,
                   bias: Tensor,
                   nl_channels: int,
                   stride: int = 1,
                   order: str = 'auto',
                   dilation: int = 1,
                   residual: Optional[Tensor] = None) -> Tensor:
    """``x + conv(light_nl(x)) + residual`` in one pass, forward only.

    Fastest where ``x`` is in channels_last. Call :func:`load_fused_light_nl`
    first.

    Args:
        x (Tensor): Features, ``(N, C, H, W)``, float32, on the CPU.
        weight (Tensor): ``(C, 1, 3, 3)``, of the depthwise convolution.
        bias (Tensor): ``(C, )``, of the same.
        nl_channels (int): k, as for :func:`~autonl_mm.models.layers.light_nl
            .light_nl`.
        stride (int): s, the same. Defaults to 1.
        order (str): The same. Defaults to ``'auto'``.
        dilation (int): Of the convolution. Defaults to 1.
        residual (Tensor, optional): ``(N, C, H, W)``, float32. Defaults to
            None.

    Returns:
        Tensor: ``(N, C, H, W)``, in the memory format of ``x``.
    """
    if order == 'auto':
        c, h, w = x.shape[1:]
        order = light_nl_order(c, nl_channels, h * w,
                               -(-h // stride) * -(-w // stride))
    return torch.ops.autonl_mm.light_nl.default(
        x, weight, bias, residual, nl_channels, stride, dilation,
        order == 'spatial')

# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""ncnn: a file of layers, ``.param``, and one of weights, ``.bin``."""
import re
import tempfile
from pathlib import Path
from typing import List

import numpy as np
import torch
import torch.nn as nn

from .base import (
    Engine,
    ExportError,
    Session,
    Settings,
    first_line,
    quiet,
    run_converter,
)

# What pnnx says of layers that ncnn does not have. It writes files nevertheless.
UNKNOWN = re.compile(r'^(?:ignore |.*not (?:supported|implemented)|.*unsupported).*$',
                     re.MULTILINE)


class NcnnSession(Session):
    """See :class:`Session`."""

    def __init__(self, file: Path, info: dict, ncnn, net):
        super().__init__(file, info)
        self.ncnn, self.net = ncnn, net

    def run(self, images: np.ndarray) -> List[np.ndarray]:
        extractor = self.net.create_extractor()
        # it refers to the array, which must live as long
        image = self.ncnn.Mat(images[0])
        extractor.input('in0', image)
        outputs = []
        for i, name in enumerate(self.info['outputs']):
            status, out = extractor.extract(f'out{i}')
            if status:
                raise RuntimeError(f'ncnn gives no output out{i} (status {status})')
            out = np.array(out)
            if name in ('boxes', 'scores'):
                # (M, C), with a 1 in front where a layer put one
                out = out.reshape(-1, out.shape[-1])
            outputs.append(out[None])
        return outputs


class Ncnn(Engine):
    """Made by pnnx from a trace; ncnn takes one image at a time."""

    name = 'ncnn'
    ending = '.param'
    modules = ('ncnn', 'pnnx')
    # LightNL divides by the number of positions, which ncnn cannot compute
    dynamic = ()
    # its quantiser is not in its Python packages
    precisions = ('fp32', 'fp16')

    def check(self, settings: Settings) -> None:
        super().check(settings)
        if settings.shape[0] != 1:
            raise ValueError(f'--batch-size is {settings.shape[0]}, but ncnn takes one '
                             'image at a time; autonl_mm.deploy.load runs any number, '
                             'one after the other')

    def files(self, file: Path) -> List[Path]:
        return [file, file.with_suffix('.bin')]

    def write(self, graph: nn.Module, settings: Settings, file: Path) -> None:
        n, c, h, w = settings.shape
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            try:
                with quiet('torch.jit'), torch.no_grad():
                    torch.jit.trace(graph, torch.rand(n, c, h, w) * 255,
                                    check_trace=False).save(folder / 'graph.pt')
            except Exception as e:  # torch's errors have no common class
                raise ExportError(f'torch.jit cannot trace the graph: '
                                  f'{first_line(e)}') from e
            out = run_converter([
                self.require('pnnx').EXEC_PATH, 'graph.pt',
                f'inputshape=[{n},{c},{h},{w}]',
                f'fp16={int(settings.precision == "fp16")}'], folder)
            found = UNKNOWN.search(out.split('pass_ncnn')[-1])
            if found:
                raise ExportError(f'pnnx cannot convert the graph to ncnn: {found[0]}')
            for target, part in zip(self.files(file), ('param', 'bin')):
                source = folder / f'graph.ncnn.{part}'
                if not source.exists():
                    raise ExportError(f'pnnx wrote no .{part} file: '
                                      f'{out.strip().splitlines()[-1]}')
                target.write_bytes(source.read_bytes())

    def open(self, file: Path, info: dict) -> NcnnSession:
        ncnn = self.require('ncnn')
        net = ncnn.Net()
        net.opt.num_threads = torch.get_num_threads()
        # as on a phone that does not compute in 16 bits
        net.opt.use_fp16_packed = False
        net.opt.use_fp16_storage = False
        net.opt.use_fp16_arithmetic = False
        for path, read in zip(self.files(file), (net.load_param, net.load_model)):
            status = read(str(path))
            if status:
                raise ValueError(f'ncnn does not load {path} (status {status}): it has '
                                 'a layer that ncnn does not know, or is damaged')
        return NcnnSession(file, info, ncnn, net)

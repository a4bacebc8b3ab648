# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""ncnn: a file of layers, ``.param``, and one of weights, ``.bin``."""
import re
import tempfile
from pathlib import Path
from typing import Callable, List

import numpy as np
import torch
import torch.nn as nn

from .base import Engine, ExportError, Settings, converting, run_converter

# pnnx prints this for layers that ncnn does not have, and writes files nevertheless.
UNKNOWN = re.compile(r'^(?:ignore |.*not (?:supported|implemented)|.*unsupported).*$',
                     re.MULTILINE)


class Ncnn(Engine):
    """Exports through a trace with pnnx; takes one image at a time."""

    name = 'ncnn'
    ending = '.param'
    part_endings = ('.bin', )
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
                             'one by one')

    def write(self, graph: nn.Module, settings: Settings, file: Path) -> None:
        n, c, h, w = settings.shape
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            with converting('torch.jit', 'torch.jit'):
                torch.jit.trace(graph, torch.rand(n, c, h, w) * 255,
                                check_trace=False).save(folder / 'graph.pt')
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

    def load(self, file: Path, info: dict) -> Callable:
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
                raise RuntimeError(f'status {status} of {path.name}: it has a layer '
                                   'that ncnn does not know, or is damaged')

        def run(images: np.ndarray) -> List[np.ndarray]:
            extractor = net.create_extractor()
            image = ncnn.Mat(images[0])  # the extractor only refers to it
            extractor.input('in0', image)
            outputs = []
            for i, name in enumerate(info['outputs']):
                status, out = extractor.extract(f'out{i}')
                if status:
                    raise RuntimeError(f'ncnn gives no output out{i} (status {status})')
                out = np.array(out)
                if name in ('boxes', 'scores'):
                    # (M, C), or (1, M, C) after some layers
                    out = out.reshape(-1, out.shape[-1])
                outputs.append(out[None])
            return outputs

        return run

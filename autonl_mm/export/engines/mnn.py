# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""MNN."""
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Callable, List

import cv2
import numpy as np
import torch
import torch.nn as nn

from .base import Engine, ExportError, Settings, calibration_batches, run_converter
from .onnx_graph import to_onnx

# MNN's own commands install a package that reports each call over the network. This
# calls their module without it.
COMMAND = 'import sys, _tools; getattr(_tools, sys.argv[1])(sys.argv[1:])'
UNKNOWN = re.compile(r'.*(?:not support|unsupport|unknown op|error).*', re.I)


class Mnn(Engine):
    """Exports through ONNX; INT8 with MNN's own quantiser."""

    name = 'mnn'
    ending = '.mnn'
    modules = ('onnx', 'MNN')

    def check(self, settings: Settings) -> None:
        super().check(settings)
        if settings.precision == 'int8' and 'size' in settings.dynamic:
            raise ValueError('--precision int8 of mnn needs images of one size: leave '
                             '--dynamic size out')

    def write(self, graph: nn.Module, settings: Settings, file: Path) -> None:
        onnx = self.require('onnx')
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            onnx.save(to_onnx(graph, settings), folder / 'graph.onnx')
            half = ['--fp16'] * (settings.precision == 'fp16')
            out = run_command(
                folder, 'mnnconvert', '-f', 'ONNX', '--modelFile', 'graph.onnx',
                '--MNNModel', 'graph.mnn', '--bizCode', 'autonl_mm', *half)
            found = UNKNOWN.search(out)
            if found:
                raise ExportError(f'MNN cannot convert the graph: {found[0].strip()}')
            if settings.precision == 'int8':
                self._quantize(graph, settings, folder)
            if not (folder / 'graph.mnn').exists():
                lines = out.strip().splitlines()
                raise ExportError('MNN cannot convert the graph: '
                                  f'{lines[-1] if lines else "silent"}')
            file.write_bytes((folder / 'graph.mnn').read_bytes())

    def _quantize(self, graph: nn.Module, settings: Settings, folder: Path) -> None:
        """Replace ``graph.mnn`` by its INT8 form.

        MNN reads images from files. It normalises them itself if the graph does not.
        """
        n, c, height, width = settings.shape
        if c != 3:
            raise ValueError(f'--precision int8 of mnn reads images of 3 channels, the '
                             f'model takes {c}')
        batches = calibration_batches(settings)
        config = dict(format='BGR', mean=[0, 0, 0], normal=[1, 1, 1], width=width,
                      height=height, path='images', used_image_num=n * len(batches),
                      batch_size=n,
                      feature_quantize_method='EMA',
                      weight_quantize_method='MAX_ABS', model='graph.mnn')
        mean, std = np.zeros((3, 1, 1)), np.ones((3, 1, 1))
        preprocess = graph.preprocess
        if not graph.preprocesses and preprocess.normalise:
            mean, std = preprocess.mean.numpy(), preprocess.std.numpy()
            config.update(mean=mean.ravel().tolist(), normal=(1 / std).ravel().tolist())
        (folder / 'images').mkdir()
        for i, image in enumerate(np.concatenate(batches)):
            pixels = (image * std + mean).round().clip(0, 255).astype(np.uint8)
            cv2.imwrite(str(folder / f'images/{i}.png'), pixels.transpose(1, 2, 0))
        (folder / 'config.json').write_text(json.dumps(config))
        out = run_command(folder, 'mnnquant', 'graph.mnn', 'int8.mnn', 'config.json')
        if not (folder / 'int8.mnn').exists():
            raise ExportError(f'MNN cannot quantise the graph: '
                              f'{out.strip().splitlines()[-1]}')
        (folder / 'int8.mnn').replace(folder / 'graph.mnn')

    def load(self, file: Path, info: dict) -> Callable:
        nn, expr = self.require('MNN.nn'), self.require('MNN.expr')
        manager = nn.create_runtime_manager((dict(
            backend='CPU', numThread=torch.get_num_threads(), precision='high'), ))
        net = nn.load_module_from_file(
            str(file), ['input'], list(info['outputs']), runtime_manager=manager)

        def run(images: np.ndarray) -> List[np.ndarray]:
            inputs = expr.const(images, list(images.shape), expr.NCHW)
            return [np.array(expr.convert(out, expr.NCHW).read())
                    for out in net.forward([inputs])]

        return run


def run_command(folder: Path, *command: str) -> str:
    """Run one of MNN's commands, see :func:`run_converter`."""
    return run_converter([sys.executable, '-c', COMMAND, *command], folder)

# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""MNN."""
import json
import re
import tempfile
from pathlib import Path
from typing import List

import cv2
import numpy as np
import torch
import torch.nn as nn

from .base import (
    Engine,
    ExportError,
    Session,
    Settings,
    calibration_batches,
    run_python,
)
from .onnx_graph import to_onnx

# The module of MNN's commands, without these: they install a package with which they
# report each call over the network.
CONVERT = 'import sys, _tools; _tools.mnnconvert(["mnnconvert", *sys.argv[1:]])'
QUANTIZE = 'import sys, _tools; _tools.mnnquant(["mnnquant", *sys.argv[1:]])'
UNKNOWN = re.compile(r'.*(?:not support|unsupport|unknown op|error).*', re.I)


class MnnSession(Session):
    """See :class:`Session`."""

    def __init__(self, file: Path, info: dict, net, expr):
        super().__init__(file, info)
        self.net, self.expr = net, expr

    def run(self, images: np.ndarray) -> List[np.ndarray]:
        planes = self.expr.NCHW
        inputs = self.expr.const(images, list(images.shape), planes)
        return [np.array(self.expr.convert(out, planes).read())
                for out in self.net.forward([inputs])]


class Mnn(Engine):
    """Made from ONNX; INT8 is its own."""

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
            out = run_python(CONVERT, [
                '-f', 'ONNX', '--modelFile', 'graph.onnx', '--MNNModel', 'graph.mnn',
                '--bizCode', 'autonl_mm', *half], folder)
            refuse_unknown(out)
            if settings.precision == 'int8':
                self._quantize(graph, settings, folder)
            if not (folder / 'graph.mnn').exists():
                lines = out.strip().splitlines()
                raise ExportError('MNN cannot convert the graph: '
                                  f'{lines[-1] if lines else "silent"}')
            file.write_bytes((folder / 'graph.mnn').read_bytes())

    def _quantize(self, graph: nn.Module, settings: Settings, folder: Path) -> None:
        """Replace ``graph.mnn`` by a quantised one.

        MNN reads images from files, and normalises them itself if that is not part of
        the graph.
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
        out = run_python(QUANTIZE, ['graph.mnn', 'int8.mnn', 'config.json'], folder)
        if not (folder / 'int8.mnn').exists():
            raise ExportError(f'MNN cannot quantise the graph: '
                              f'{out.strip().splitlines()[-1]}')
        (folder / 'int8.mnn').replace(folder / 'graph.mnn')

    def open(self, file: Path, info: dict) -> MnnSession:
        nn, expr = self.require('MNN.nn'), self.require('MNN.expr')
        manager = nn.create_runtime_manager((dict(
            backend='CPU', numThread=torch.get_num_threads(), precision='high'), ))
        try:
            net = nn.load_module_from_file(
                str(file), ['input'], list(info['outputs']), runtime_manager=manager)
        except Exception as e:  # MNN's errors have no common class
            raise ValueError(f'MNN does not load {file}: {e}') from e
        return MnnSession(file, info, net, expr)


def refuse_unknown(output: str) -> None:
    """Refuse a conversion whose output says that a layer is unknown.

    Args:
        output (str): What the converter printed.

    Raises:
        ExportError: If it says so.
    """
    found = UNKNOWN.search(output)
    if found:
        raise ExportError(f'MNN cannot convert the graph: {found[0].strip()}')

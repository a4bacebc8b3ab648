# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""OpenVINO: a file of layers, ``.xml``, and one of weights, ``.bin``."""
import os
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Callable, List

import numpy as np
import torch
import torch.nn as nn

from .base import Engine, Settings, calibration_batches, converting, quiet
from .onnx_graph import to_onnx
from .onnx_int8 import default_exclude


class OpenVino(Engine):
    """Exports through ONNX; INT8 with NNCF."""

    name = 'openvino'
    ending = '.xml'
    part_endings = ('.bin', )
    modules = ('onnx', 'openvino')
    selects_boxes = True

    def check(self, settings: Settings) -> None:
        super().check(settings)
        if settings.precision == 'int8' and find_spec('nncf') is None:
            self.require('nncf')  # which says what to install

    def write(self, graph: nn.Module, settings: Settings, file: Path) -> None:
        openvino, onnx = self.require('openvino'), self.require('onnx')
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / 'graph.onnx'
            onnx.save(to_onnx(graph, settings), source)
            with converting('OpenVINO'):
                model = openvino.Core().read_model(source)
            if settings.precision == 'int8':
                model = self._quantize(model, settings)
            openvino.save_model(
                model, file, compress_to_fp16=settings.precision == 'fp16')

    def _quantize(self, model, settings: Settings):
        # It would report its use over the network otherwise.
        os.environ.setdefault('NNCF_CI', '1')
        nncf = self.require('nncf')
        batches = calibration_batches(settings)
        with quiet('nncf'):
            return nncf.quantize(
                model, nncf.Dataset(batches), subset_size=len(batches),
                # for activations that are not symmetric, as swish
                preset=nncf.QuantizationPreset.MIXED,
                # Sums of products of eight-bit numbers saturate on processors that
                # have no instructions for them; weights of seven bits are right on all.
                advanced_parameters=nncf.AdvancedQuantizationParameters(
                    overflow_fix=nncf.OverflowFix.ENABLE),
                ignored_scope=nncf.IgnoredScope(
                    patterns=[f'.*{name}.*' for name in default_exclude(settings.info)],
                    validate=False))

    def load(self, file: Path, info: dict) -> Callable:
        model = self.require('openvino').Core().compile_model(
            file, 'CPU', dict(
                # on some processors it would take bfloat16
                INFERENCE_PRECISION_HINT='f32',
                INFERENCE_NUM_THREADS=torch.get_num_threads()))

        def run(images: np.ndarray) -> List[np.ndarray]:
            outputs = model([images])
            return [np.array(outputs[i]) for i in range(len(model.outputs))]

        return run

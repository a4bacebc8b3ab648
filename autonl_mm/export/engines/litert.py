# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""LiteRT, formerly TensorFlow Lite."""
from pathlib import Path
from typing import Callable, List

import numpy as np
import torch
import torch.nn as nn

from .base import (
    Engine,
    Settings,
    calibration_batches,
    converting,
    quiet,
    usual_range,
)

# Names that litert_torch gives to the only input and to its signature
INPUT, SIGNATURE = 'args_0', 'serving_default'
QUANTISED = ('CONV_2D', 'DEPTHWISE_CONV_2D', 'FULLY_CONNECTED')


class LiteRt(Engine):
    """Exports through torch.export with litert_torch; INT8 with ai_edge_quantizer."""

    name = 'litert'
    ending = '.tflite'
    modules = ('litert_torch', 'ai_edge_litert.interpreter')
    dynamic = ()

    def check(self, settings: Settings) -> None:
        super().check(settings)
        if settings.precision != 'fp32':
            self.require('ai_edge_quantizer')

    def write(self, graph: nn.Module, settings: Settings, file: Path) -> None:
        litert = self.require('litert_torch')
        with converting('litert_torch'):
            litert.convert(
                graph, (torch.rand(*settings.shape) * 255, )).export(str(file))
        if settings.precision != 'fp32':
            with quiet():
                self._quantize(settings, file)

    def _quantize(self, settings: Settings, file: Path) -> None:
        """Replace a float32 file by one of lower precision."""
        aeq = self.require('ai_edge_quantizer')
        quantizer = aeq.quantizer.Quantizer(str(file))
        if settings.precision == 'fp16':
            quantizer.load_quantization_recipe(
                [dict(regex='.*', operation='*', algorithm_key='float_casting',
                      op_config=dict(
                          weight_tensor_config=dict(num_bits=16, dtype='FLOAT'),
                          compute_precision='FLOAT', explicit_dequantize=True))])
            result = quantizer.quantize()
        else:
            recipe, = aeq.recipe.static_wi8_ai8()
            # inputs, outputs and LightNL's products stay in float
            quantizer.load_quantization_recipe(
                [dict(recipe, operation=name) for name in QUANTISED])
            found = [quantizer.calibrate({SIGNATURE: [{INPUT: batch}]})
                     for batch in calibration_batches(settings)]
            ranges = {}
            for name in found[0]:
                low, high = usual_range(*(np.stack([one[name][end] for one in found])
                                          for end in ('min', 'max')))
                ranges[name] = dict(min=low, max=high)
            result = quantizer.quantize(ranges)
        result.export_model(str(file), overwrite=True)

    def load(self, file: Path, info: dict) -> Callable:
        interpreter = self.require('ai_edge_litert.interpreter').Interpreter(
            str(file), num_threads=torch.get_num_threads())
        runner = interpreter.get_signature_runner(SIGNATURE)

        def run(images: np.ndarray) -> List[np.ndarray]:
            outputs = runner(**{INPUT: images})
            return [outputs[f'output_{i}'] for i in range(len(outputs))]

        return run

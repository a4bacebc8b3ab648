# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""onnxruntime: ONNX files."""
import json
from pathlib import Path
from typing import Callable, Dict

import numpy as np
import torch
import torch.nn as nn

from autonl_mm.runs.text_files import parse_json

from .base import Engine, Settings, calibration_batches, checked_info
from .onnx_graph import to_onnx
from .onnx_int8 import default_exclude, quantize_static

# Key of our entry in the metadata of an ONNX file
KEY = 'autonl_mm'


class OnnxRuntime(Engine):
    """Metadata is stored in the ONNX file, not in a JSON sidecar."""

    name = 'onnxruntime'
    ending = '.onnx'
    modules = ('onnx', 'onnxruntime')
    selects_boxes = True

    def write(self, graph: nn.Module, settings: Settings, file: Path) -> None:
        model = to_onnx(graph, settings)
        if settings.precision == 'fp16':
            model = to_half(model)
        elif settings.precision == 'int8':
            model, count = quantize_static(
                model, calibration_batches(settings), default_exclude(settings.info))
            settings.info['quantised'] = count
        file.write_bytes(model.SerializeToString())

    def write_info(self, file: Path, info: dict) -> None:
        onnx = self.require('onnx')
        model = onnx.load(file)
        set_info(model, info)
        onnx.save(model, file)

    def info(self, file: Path) -> dict:
        with self.loading(file):
            session = self._session(file, optimise=False)
        meta = session.get_modelmeta().custom_metadata_map
        if KEY not in meta:
            raise ValueError(f'{file} was not written by '
                             'tools/deployment/export.py')
        source = f'the metadata of {file}'
        return checked_info(parse_json(meta[KEY], source), source)

    def load(self, file: Path, info: dict) -> Callable:
        session = self._session(file)
        return lambda images: session.run(None, {'input': images})

    def _session(self, file: Path, optimise: bool = True):
        runtime = self.require('onnxruntime')
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        # so that its threads do not spin while another session is measured
        options.add_session_config_entry('session.force_spinning_stop', '1')
        if not optimise:
            options.graph_optimization_level = (
                runtime.GraphOptimizationLevel.ORT_DISABLE_ALL)
        return runtime.InferenceSession(
            str(file), options, providers=['CPUExecutionProvider'])


def set_info(model, info: Dict) -> None:
    """Set the metadata of an ONNX model.

    Args:
        model (onnx.ModelProto): The model, changed in place.
        info (dict): The metadata, see :class:`Session`.
    """
    import onnx
    onnx.helper.set_model_props(model, {KEY: json.dumps(info)})


def to_half(model):
    """Store weights in float16, cast to float32 when the model is loaded.

    Args:
        model (onnx.ModelProto): The model, changed in place.

    Returns:
        onnx.ModelProto: The model.
    """
    import onnx
    graph, casts = model.graph, []
    for tensor in graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.dims) < 2:
            continue
        values, name = onnx.numpy_helper.to_array(tensor), tensor.name
        tensor.CopyFrom(onnx.numpy_helper.from_array(
            values.astype(np.float16), f'{name}_half'))
        casts.append(onnx.helper.make_node(
            'Cast', [tensor.name], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return model

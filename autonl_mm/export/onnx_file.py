# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""ONNX files: running them, and the metadata in them."""
import io
import json
import logging
import warnings
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Dict, Iterator, List, Union

import numpy as np
import torch

from autonl_mm.text_files import parse_json

# Key of our entry in a file's metadata
KEY = 'autonl_mm'


def require(name: str) -> ModuleType:
    """Import onnx or onnxruntime, which are optional dependencies.

    Args:
        name (str): Name of the module.

    Returns:
        ModuleType: The module.

    Raises:
        ImportError: If it is missing; says what to install.
    """
    try:
        return import_module(name)
    except ImportError as e:
        raise ImportError(
            f'ONNX files need {name.split(".")[0]}, which cannot be imported '
            f"({e}): pip install 'autonl_mm[onnx]', or pip install onnx "
            'onnxruntime') from None


@contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """Hide warnings and output of exporters, such as the graphs they print.

    Args:
        *loggers (str): Names of loggers that should log only errors.
    """
    found = [logging.getLogger(name) for name in loggers]
    levels = [logger.level for logger in found]
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter('ignore')
        try:
            for logger in found:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(found, levels):
                logger.setLevel(level)


def first_line(error: Exception) -> str:
    """Class and first line of an error; torch appends its whole graph."""
    return f'{type(error).__name__}: {error}'.splitlines()[0]


class OnnxSession:
    """An ONNX file of this project, ready to run on the CPU.

    Args:
        file (str | Path | bytes): The file, or its content.

    Attributes:
        info (dict): Metadata of the file: ``task``, the names of the
            ``classes`` if they are known, ``light_nl_scales``, the scales of
            its LightNLs, and for a quantised file the number of ``quantised``
            nodes.
        batch (int | None): Number of images per run, None for any number.
        size (tuple): Height and width, None for any.

    Raises:
        ImportError: If onnxruntime is missing.
        FileNotFoundError: If the file does not exist.
        ValueError: If it is not an ONNX file of this project.
    """

    def __init__(self, file: Union[str, Path, bytes]):
        runtime = require('onnxruntime')
        name = 'the file'
        if not isinstance(file, bytes):
            name = str(file)
            if not Path(file).is_file():
                raise FileNotFoundError(f'{name!r} does not exist')
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        try:
            self.session = runtime.InferenceSession(
                file if isinstance(file, bytes) else name,
                options,
                providers=['CPUExecutionProvider'])
        except Exception as e:  # onnxruntime's errors have no common class
            raise ValueError(f'onnxruntime does not load {name}: {e}') from e
        meta = self.session.get_modelmeta().custom_metadata_map
        if KEY not in meta:
            raise ValueError(f'{name} was not written by '
                             'tools/deployment/export_onnx.py')
        self.info: dict = parse_json(meta[KEY], f'the metadata of {name}')
        if not isinstance(self.info, dict) or not isinstance(
                self.info.get('task'), str):
            raise ValueError(f'the metadata of {name} is no dict with a task: export '
                             'it again with tools/deployment/export_onnx.py')
        self.input, = self.session.get_inputs()
        shape = [n if isinstance(n, int) else None for n in self.input.shape]
        self.batch = shape[0]
        self.size = tuple(shape[2:])
        self.outputs = [out.name for out in self.session.get_outputs()]

    def __call__(self, images: torch.Tensor) -> List[torch.Tensor]:
        """Run the network.

        Args:
            images (Tensor): ``(N, 3, H, W)`` as they were loaded, not
                normalised. N may be any number: a file with a fixed batch size
                runs several times, with the last batch padded.

        Returns:
            list[Tensor]: The file's outputs.

        Raises:
            ValueError: If the file takes images of another size, or fails.
        """
        images = images.float().numpy()
        for want, have in zip(self.size, images.shape[2:]):
            if want not in (None, have):
                raise ValueError(
                    'the file takes images of '
                    f'{self.size[0]}x{self.size[1]}, got one of '
                    f'{images.shape[2]}x{images.shape[3]}: export with '
                    '--dynamic size, or resize the images in the pipeline')
        step = self.batch or len(images)
        parts = []
        for start in range(0, len(images), step):
            part = images[start:start + step]
            count = len(part)
            if count < step:
                part = np.concatenate([part, part[-1:].repeat(step - count, 0)])
            try:
                outputs = self.session.run(None, {self.input.name: part})
            except Exception as e:  # onnxruntime's errors have no common class
                raise ValueError('onnxruntime does not run the file, which may '
                                 f'be broken: {first_line(e)}') from e
            parts.append([out[:count] for out in outputs])
        return [torch.from_numpy(np.concatenate(outs)) for outs in zip(*parts)]


def set_info(model, info: Dict) -> None:
    """Set the metadata of a file.

    Args:
        model (onnx.ModelProto): The file's model, changed in place.
        info (dict): The metadata, see :class:`OnnxSession`.
    """
    require('onnx').helper.set_model_props(model, {KEY: json.dumps(info)})

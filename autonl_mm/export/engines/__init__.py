# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The engines, and loading of exported models."""
from pathlib import Path
from typing import Union

from .base import DYNAMIC, PRECISIONS, Engine, ExportError, Session, Settings
from .coreml import CoreMl
from .executorch import ExecuTorch
from .litert import LiteRt
from .mnn import Mnn
from .ncnn import Ncnn
from .onnxruntime import OnnxRuntime
from .openvino import OpenVino

ENGINES = {engine.name: engine for engine in (
    OnnxRuntime(), OpenVino(), Mnn(), Ncnn(), LiteRt(), ExecuTorch(), CoreMl())}

__all__ = [
    'DYNAMIC', 'ENGINES', 'PRECISIONS', 'Engine', 'ExportError', 'Session', 'Settings',
    'engine_of', 'is_exported_model', 'load'
]


def is_exported_model(file: Union[str, Path]) -> bool:
    """Whether a file's name has the ending of an exported model.

    Args:
        file (str | Path): The file.
    """
    return str(file).endswith(tuple(e.ending for e in ENGINES.values()))


def engine_of(file: Union[str, Path]) -> Engine:
    """The engine of an exported model, by the ending of its name.

    Args:
        file (str | Path): The main file.

    Raises:
        ValueError: If no engine has this ending.
    """
    for engine in ENGINES.values():
        if str(file).endswith(engine.ending):
            return engine
    known = ', '.join(f'{e.ending} ({e.name})' for e in ENGINES.values())
    raise ValueError(f'{str(file)!r} is not an exported model, expected a name that '
                     f'ends in {known}')


def load(file: Union[str, Path]) -> Session:
    """Load an exported model of any engine, to run on the CPU.

    It runs in as many threads as torch has when it is loaded.

    Args:
        file (str | Path): Main file of a model exported by
            ``tools/deployment/export.py``.

    Returns:
        Session: Called with images ``(N, C, H, W)`` it returns a list of tensors, the
        same for every engine.

    Raises:
        ImportError: If the engine is missing; says what to install.
        FileNotFoundError: If one of its files does not exist.
        ValueError: If this project did not write it, the engine does not load it, or
            the engine cannot run here.
    """
    engine, file = engine_of(file), Path(file)
    if not file.exists():
        raise FileNotFoundError(f'{str(file)!r} does not exist')
    return engine.open(file, engine.info(file))

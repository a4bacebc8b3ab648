# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The engines, and loading of their files."""
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
    'engine_of', 'is_engine_file', 'load'
]


def is_engine_file(file: Union[str, Path]) -> bool:
    """Whether a file's name is one of an exported network.

    Args:
        file (str | Path): The file.
    """
    return str(file).endswith(tuple(e.ending for e in ENGINES.values()))


def engine_of(file: Union[str, Path]) -> Engine:
    """The engine of a file, by the ending of its name.

    Args:
        file (str | Path): The file.

    Raises:
        ValueError: If no engine's files end so.
    """
    for engine in ENGINES.values():
        if str(file).endswith(engine.ending):
            return engine
    known = ', '.join(f'{e.ending} ({e.name})' for e in ENGINES.values())
    raise ValueError(f'{str(file)!r} is no file of an engine, expected one that ends '
                     f'in {known}')


def load(file: Union[str, Path]) -> Session:
    """Load an exported network of any engine, to be run on the CPU.

    It runs in as many threads as torch has when it is loaded.

    Args:
        file (str | Path): What ``tools/deployment/export.py`` wrote.

    Returns:
        Session: Called with images ``(N, C, H, W)`` it returns a list of tensors, the
        same for every engine.

    Raises:
        ImportError: If the engine is missing; says what to install.
        FileNotFoundError: If the file, or one that belongs to it, does not exist.
        ValueError: If this project did not write it, the engine does not load it, or
            cannot run here.
    """
    engine, file = engine_of(file), Path(file)
    if not file.exists():
        raise FileNotFoundError(f'{str(file)!r} does not exist')
    return engine.open(file, engine.info(file))

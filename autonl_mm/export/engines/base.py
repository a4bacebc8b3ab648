# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""What all engines share: the interface, the files beside a file, and running it.

An engine is a program that runs exported networks, on a phone or elsewhere.
"""
import io
import json
import logging
import subprocess
import sys
import warnings
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor

from autonl_mm.runs.digest import digest
from autonl_mm.runs.text_files import check_json, read_json

from ..boxes import select_boxes

DYNAMIC = ('batch', 'size')
PRECISIONS = ('fp32', 'fp16', 'int8')
COUNT = range(1, 2**31)
# What a file says about itself, see :class:`Session`
INFO = {
    'task': {'classification', 'detection', 'segmentation'},
    'outputs': [str],
    'input': [(COUNT, None), COUNT, (COUNT, None), (COUNT, None)],
    'preprocess': bool,
    'precision': set(PRECISIONS),
    'light_nl_scales': [str],
    'classes?': [(str, int)],
    'select?': {
        'levels': [COUNT], 'nms_pre': int, 'score_thr': float, 'iou_threshold': float,
        'max_per_img': COUNT, 'class_agnostic?': bool, 'min_bbox_size?': float},
    'quantised?': int,
    str: object}


class ExportError(RuntimeError):
    """The model cannot be exported, or the exported file is wrong."""


class Settings(NamedTuple):
    """How to export a graph.

    Attributes:
        shape (tuple[int, ...]): ``N, C, H, W`` of the images.
        dynamic (Sequence[str]): Dimensions that may change between runs, from
            :data:`DYNAMIC`.
        precision (str): One of :data:`PRECISIONS`. With ``'fp16'`` the weights are
            stored in 16 bits, with ``'int8'`` weights and feature maps of the
            convolutions have 8.
        calibration (list[Tensor]): For ``'int8'``: images ``(C, H, W)`` in the form
            that the graph takes.
        opset (int): Version of ONNX's operators.
        info (dict): What the file says about itself, see :class:`Session`.
    """
    shape: Tuple[int, ...]
    dynamic: Sequence[str] = ()
    precision: str = 'fp32'
    calibration: List[Tensor] = []
    opset: int = 17
    info: dict = {}

    @property
    def sizes(self) -> List[Optional[int]]:
        """N, C, H and W of the file's input, None for any."""
        n, c, h, w = self.shape
        n = None if 'batch' in self.dynamic else n
        return [n, c, *([None, None] if 'size' in self.dynamic else [h, w])]


class Session:
    """A file of an engine, ready to run on the CPU.

    All engines' sessions take the same images and give the same outputs.

    Args:
        file (Path): The file.
        info (dict): What it says about itself: ``task``; ``outputs``, their names;
            ``input``, its N, C, H and W, None for any; ``preprocess``, whether
            normalisation is part of it; ``light_nl_scales``, see
            :func:`autonl_mm.models.layers.light_nl_scales`; ``precision``; the
            names of the ``classes``, if they are known; and for a detector without
            box selection ``select``, the settings of
            :func:`autonl_mm.export.boxes.select_boxes`.

    Attributes:
        info (dict): As above.
        batch (int | None): Number of images per run, None for any number.
        size (tuple): Height and width, None for any.
        outputs (list[str]): Names of what a call returns.
    """

    def __init__(self, file: Path, info: dict):
        self.info = info
        self.batch = info['input'][0]
        self.size = tuple(info['input'][2:])
        self.outputs: List[str] = list(info['outputs'])
        if 'select' in info:
            self.outputs = ['dets', 'labels']

    def run(self, images: np.ndarray) -> List[np.ndarray]:
        """Run the file once.

        Args:
            images (np.ndarray): Float32, of a shape that the file takes.
        """
        raise NotImplementedError

    def __call__(self, images: Union[Tensor, np.ndarray]) -> List[Tensor]:
        """Run the network.

        Args:
            images (Tensor | np.ndarray): ``(N, C, H, W)`` as they were loaded, 0 to
                255, not normalised; for a file without preprocessing as the config's
                data preprocessor makes them. N may be any number: a file with a
                fixed batch size runs several times, with the last batch padded.

        Returns:
            list[Tensor]: ``logits (N, classes)`` of a classifier, ``logits
            (N, classes, H, W)`` or ``labels (N, H, W)`` of a segmentor, ``dets
            (N, K, 5)`` and ``labels (N, K)`` of a detector.

        Raises:
            ValueError: If the file takes images of another shape, or fails.
        """
        images = np.ascontiguousarray(torch.as_tensor(images).float().numpy())
        if images.ndim != 4 or images.shape[1] != self.info['input'][1]:
            raise ValueError('the file takes images '
                             f'(N, {self.info["input"][1]}, H, W), got {images.shape}')
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
                outputs = self.run(part)
            except Exception as e:  # engines' errors have no common class
                raise ValueError('the engine does not run the file, which may be '
                                 f'damaged: {first_line(e)}') from e
            parts.append([out[:count] for out in outputs])
        outputs = [np.concatenate(outs) for outs in zip(*parts)]
        if 'select' in self.info:
            rows = [select_boxes(boxes, scores, **self.info['select'])
                    for boxes, scores in zip(*outputs)]
            outputs = [np.stack(column) for column in zip(*rows)]
        return [torch.from_numpy(out) for out in outputs]


class Engine:
    """How an engine's files are made and run; each has a module of its own.

    Attributes:
        name (str): As ``--engine`` takes it.
        ending (str): Of its main file.
        modules (tuple[str, ...]): What it imports to export.
        dynamic (Sequence[str]): Which of :data:`DYNAMIC` it can.
        precisions (Sequence[str]): Which of :data:`PRECISIONS` it can.
        selects_boxes (bool): Whether its detectors select their boxes themselves.
        tolerance (float): Largest difference from PyTorch that is taken for rounding,
            in float32, relative to the largest output.
        runs (bool): Whether its files can be run here.
    """
    name: str
    ending: str
    modules: Tuple[str, ...]
    dynamic: Sequence[str] = DYNAMIC
    precisions: Sequence[str] = PRECISIONS
    selects_boxes = False
    tolerance = 1e-3
    runs = True

    def check(self, settings: Settings) -> None:
        """Refuse what the engine cannot, before anything is computed.

        Args:
            settings (Settings): How to export.

        Raises:
            ImportError: If a package is missing; says what to install.
            ValueError: If the settings ask for more than the engine can.
        """
        for name in self.modules:
            self.require(name)
        for option, asked, known in (
                ('--dynamic', settings.dynamic, self.dynamic),
                ('--precision', [settings.precision], self.precisions)):
            for value in asked:
                if value not in known:
                    raise ValueError(
                        f'{option} {value} cannot be exported for {self.name}, which '
                        f'can {", ".join(known) or "none of them"}')

    def require(self, name: str) -> ModuleType:
        """Import a module of the engine, which is an optional dependency.

        Args:
            name (str): Name of the module.

        Raises:
            ImportError: If it is missing; says what to install.
        """
        try:
            return import_module(name)
        except ImportError as e:
            raise ImportError(
                f'{self.name} files need {name.split(".")[0]}, which cannot be '
                f"imported ({e}): pip install 'autonl_mm[{self.name}]'") from None

    def write(self, graph: nn.Module, settings: Settings, file: Path) -> None:
        """Turn a graph into files of the engine.

        Args:
            graph (TaskGraph): The graph.
            settings (Settings): How to export it.
            file (Path): The main file; others may be written beside it.

        Raises:
            ExportError: If the engine's converter fails, or warns of layers that the
                engine does not have.
        """
        raise NotImplementedError

    def files(self, file: Path) -> List[Path]:
        """All files of an exported network, without the one that :meth:`info` reads.

        Args:
            file (Path): The main file.
        """
        return [file]

    def write_info(self, file: Path, info: dict) -> None:
        """Store what a file says about itself, beside it: ``FILE.json``.

        Args:
            file (Path): The main file.
            info (dict): See :class:`Session`.
        """
        info = dict(info, sha256={p.suffix: digest(p) for p in self.files(file)})
        info_file(file).write_text(json.dumps(info, indent=1))

    def info(self, file: Path) -> dict:
        """What a file says about itself.

        Args:
            file (Path): The main file.

        Raises:
            FileNotFoundError: If a file of the network is missing; names it.
            ValueError: If the files do not belong together, or are of others.
        """
        for path in [*self.files(file), info_file(file)]:
            if not path.exists():
                raise FileNotFoundError(
                    f'{str(path)!r} does not exist; {file.name} cannot be used '
                    'without it')
        info = checked_info(read_json(info_file(file)), info_file(file), sha256={
            path.suffix: str for path in self.files(file)})
        for path in self.files(file):
            if info['sha256'][path.suffix] != digest(path):
                raise ValueError(f'{path} is not the file that {info_file(file).name} '
                                 'is about: export the network again')
        return info

    def inspect(self, file: Path, settings: Settings, outputs: Sequence[str]) -> None:
        """Check the specification of a file that cannot be run here.

        Args:
            file (Path): The main file.
            settings (Settings): How it was exported.
            outputs (Sequence[str]): Names of its outputs.

        Raises:
            ExportError: If it is not as it should be.
        """

    def open(self, file: Path, info: dict) -> Session:
        """Load a file.

        Args:
            file (Path): The main file.
            info (dict): See :class:`Session`.

        Raises:
            ImportError: If the engine is missing; says what to install.
            ValueError: If the engine does not load it.
        """
        raise NotImplementedError


def info_file(file: Path) -> Path:
    """The file beside another that says what is in it."""
    return file.with_name(f'{file.name}.json')


def checked_info(info, source, **more) -> dict:
    """What a file says about itself, if this project wrote it.

    Args:
        info (Any): What was read.
        source (Any): Where, for the message.
        **more: Forms of further keys, as :data:`INFO` has them.

    Raises:
        ValueError: If it is something else; names the key.
    """
    forms = [{**INFO, **more}]
    if isinstance(info, dict) and info.get('outputs') == ['boxes', 'scores']:
        forms.append({'select': object, str: object})
    for form in forms:
        check_json(info, form, f'{source} does not say what the file takes and gives',
                   'export it again with tools/deployment/export.py')
    return info


def first_line(error: Exception) -> str:
    """Class and first line of an error; torch appends its whole graph."""
    return f'{type(error).__name__}: {error}'.splitlines()[0]


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


def run_converter(command: Sequence[str], folder: Path) -> str:
    """Run a converter in a process of its own: some end it when they fail.

    Args:
        command (Sequence[str]): The command.
        folder (Path): Where to run it.

    Returns:
        str: What it printed.

    Raises:
        ExportError: If it fails.
    """
    result = subprocess.run(
        list(map(str, command)), cwd=folder, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors='replace')
    if result.returncode:
        lines = result.stdout.strip().splitlines()
        raise ExportError(f'{Path(command[0]).name} ended with status '
                          f'{result.returncode}: {lines[-1] if lines else "silent"}')
    return result.stdout


def run_python(code: str, arguments: Sequence[str], folder: Path) -> str:
    """As :func:`run_converter`, for a converter that is a Python module.

    Args:
        code (str): What to run.
        arguments (Sequence[str]): Its ``sys.argv[1:]``.
        folder (Path): Where to run it.
    """
    return run_converter([sys.executable, '-c', code, *arguments], folder)


def calibration_batches(settings: Settings) -> List[np.ndarray]:
    """Images to calibrate on, in batches of the size of the export.

    Args:
        settings (Settings): How to export.

    Raises:
        ValueError: If there are fewer images than in one batch.
    """
    images, step = settings.calibration, settings.shape[0]
    if len(images) < step:
        raise ValueError(f'{len(images)} images to calibrate on, expected at least '
                         f'{step}, the batch size of the file')
    return [torch.stack(images[i:i + step]).numpy()
            for i in range(0, len(images) - step + 1, step)]

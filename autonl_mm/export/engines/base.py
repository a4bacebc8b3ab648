# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The interface of all engines, the metadata, and sessions of exported models.

An engine is a program that runs exported models, on a phone or elsewhere.
"""
import io
import json
import logging
import subprocess
import warnings
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import (
    Any,
    Callable,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    Union,
)

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor

from autonl_mm.runs.digest import digest
from autonl_mm.runs.subprocesses import ProcessEndedError, run_in_subprocess
from autonl_mm.runs.text_files import check_json, read_json

from ..boxes import select_boxes

DYNAMIC = ('batch', 'size')
PRECISIONS = ('fp32', 'fp16', 'int8')
# Share of the images that fit into a range of INT8. Otherwise a few images with large
# feature maps leave too few steps for all other images.
QUANTILE = 0.95
COUNT = range(1, 2**31)
_ACTIVATION = ({'type': str, str: object}, None)
# Form of the metadata, see :class:`Session`
INFO = {
    'task': {'classification', 'detection', 'segmentation'},
    'outputs': [str],
    'input': [(COUNT, None), COUNT, (COUNT, None), (COUNT, None)],
    'preprocess': bool,
    'precision': set(PRECISIONS),
    'light_nl_scales': [str],
    'classes?': [(str, int)],
    'palette?': [[int]],
    'cfg?': str,
    'activations?': {'act_cfg': _ACTIVATION, 'se_act_cfg': _ACTIVATION},
    'select?': {
        'levels': [COUNT], 'nms_pre': int, 'score_thr': float, 'iou_threshold': float,
        'max_per_img': COUNT, 'class_agnostic': bool, 'min_bbox_size': float},
    'quantised?': int,
    str: object}


class ExportError(RuntimeError):
    """The model cannot be exported, or the exported model is wrong."""


class Settings(NamedTuple):
    """How to export a graph.

    Attributes:
        shape (tuple[int, ...]): ``N, C, H, W`` of the images.
        dynamic (Sequence[str]): Dimensions that may change between runs, from
            :data:`DYNAMIC`.
        precision (str): One of :data:`PRECISIONS`. ``'fp16'`` stores weights in 16
            bits. ``'int8'`` computes convolutions with weights and feature maps of 8
            bits.
        calibration (list[Tensor]): Calibration images ``(C, H, W)`` for ``'int8'``,
            in the form that the graph takes.
        opset (int): Version of ONNX's operators.
        info (dict): Metadata, see :class:`Session`.
    """
    shape: Tuple[int, ...]
    dynamic: Sequence[str] = ()
    precision: str = 'fp32'
    calibration: List[Tensor] = []
    opset: int = 17
    info: dict = {}

    @property
    def sizes(self) -> List[Optional[int]]:
        """N, C, H and W of the input, None for any."""
        n, c, h, w = self.shape
        n = None if 'batch' in self.dynamic else n
        return [n, c, *([None, None] if 'size' in self.dynamic else [h, w])]


class Session:
    """An exported model, ready to run on the CPU.

    The sessions of all engines take the same images and give the same outputs.

    Args:
        info (dict): Metadata of the exported model: ``task``; ``outputs``, their
            names; ``input``, its N, C, H and W, None for any; ``preprocess``, whether
            normalisation is in the exported model; ``light_nl_scales``, see
            :func:`autonl_mm.models.layers.light_nl_scales`; ``activations``,
            ``act_cfg`` and ``se_act_cfg`` of AutoNL; ``precision``; ``classes``, their
            names, and ``palette``, if they are known; ``cfg``, the config's text for
            predictions from image files; ``quantised``, the number of
            INT8 nodes in an ONNX model; ``select``, the settings of
            :func:`autonl_mm.export.boxes.select_boxes` if a detector's NMS is in
            post-processing.
        run (Callable): Runs the engine once: takes images as a float32 array of a
            shape that fits, returns a list of arrays.

    Attributes:
        info (dict): As above.
        batch (int | None): Number of images per run, None for any number.
        size (tuple): Height and width, None for any.
        outputs (list[str]): Names of the returned tensors.
    """

    def __init__(self, info: dict, run: Callable[[np.ndarray], List[np.ndarray]]):
        self.info = info
        self.run = run
        self.batch = info['input'][0]
        self.size = tuple(info['input'][2:])
        self.outputs: List[str] = list(info['outputs'])
        if 'select' in info:
            self.outputs = ['dets', 'labels']

    def __call__(self, images: Union[Tensor, np.ndarray]) -> List[Tensor]:
        """Run the model.

        Args:
            images (Tensor | np.ndarray): ``(N, C, H, W)`` as they were loaded, 0 to
                255, not normalised. An exported model without preprocessing takes
                the output of the config's data preprocessor. N may be any number: a
                model with a fixed batch size runs several times, with the last batch
                padded.

        Returns:
            list[Tensor]: ``logits (N, classes)`` of a classifier, ``logits
            (N, classes, H, W)`` or ``labels (N, H, W)`` of a segmentor, ``dets
            (N, K, 5)`` and ``labels (N, K)`` of a detector.

        Raises:
            ValueError: If the model takes images of another shape, or fails.
        """
        images = np.ascontiguousarray(torch.as_tensor(images).float().numpy())
        if images.ndim != 4 or images.shape[1] != self.info['input'][1]:
            raise ValueError('the exported model takes images '
                             f'(N, {self.info["input"][1]}, H, W), got {images.shape}')
        for want, have in zip(self.size, images.shape[2:]):
            if want not in (None, have):
                raise ValueError(
                    'the exported model takes images of '
                    f'{self.size[0]}x{self.size[1]}, got an image of '
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
                raise ValueError('the engine does not run the exported model, which '
                                 f'may be damaged: {first_line(e)}') from e
            parts.append([out[:count] for out in outputs])
        outputs = [np.concatenate(outs) for outs in zip(*parts)]
        if 'select' in self.info:
            rows = [select_boxes(boxes, scores, **self.info['select'])
                    for boxes, scores in zip(*outputs)]
            outputs = [np.stack(column) for column in zip(*rows)]
        outputs = map(torch.from_numpy, outputs)
        return [out if out.is_floating_point() else out.long() for out in outputs]


def run_engine(function: Callable, *args: Any) -> Any:
    """Call a function in a subprocess, which a crash of an engine may end.

    Args:
        function (Callable): Pickle must find it by its name.
        *args (Any): Its arguments; NumPy arrays rather than tensors.

    Raises:
        ExportError: If the function raises an error, or if the subprocess ends before
            the function returns.
    """
    try:
        return run_in_subprocess(function, *args)
    except ExportError:
        raise
    except ProcessEndedError as e:
        raise ExportError(str(e)) from None
    except Exception as e:  # engines' errors have no common class
        raise ExportError(first_line(e)) from None


class Engine:
    """How an engine's exported models are made and run.

    Attributes:
        name (str): Value of ``--engine``.
        ending (str): Ending of an exported model's main file.
        part_endings (tuple[str, ...]): Endings of its other files. Defaults to ().
        modules (tuple[str, ...]): Modules that the export imports.
        dynamic (Sequence[str]): Supported values of :data:`DYNAMIC`.
        precisions (Sequence[str]): Supported values of :data:`PRECISIONS`.
        selects_boxes (bool): Whether NMS is in the exported model.
        tolerance (float): Largest difference from PyTorch that counts as rounding,
            in float32, relative to the largest output.
        runs (bool): Whether its exported models can be run here.
    """
    name: str
    ending: str
    part_endings: Tuple[str, ...] = ()
    modules: Tuple[str, ...]
    dynamic: Sequence[str] = DYNAMIC
    precisions: Sequence[str] = PRECISIONS
    selects_boxes = False
    tolerance = 1e-3
    runs = True

    def check(self, settings: Settings) -> None:
        """Refuse unsupported settings, before anything is computed.

        Args:
            settings (Settings): How to export.

        Raises:
            ImportError: If a package is missing; says what to install.
            ValueError: If the engine does not support a setting.
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
                        f'supports {", ".join(known) or "none"}')

    def require(self, name: str) -> ModuleType:
        """Import a module of the engine's package, an optional dependency.

        Args:
            name (str): Name of the module.

        Raises:
            ImportError: If it is missing; says what to install.
        """
        try:
            return import_module(name)
        except ImportError as e:
            raise ImportError(
                f'{self.name} models need {name.split(".")[0]}, which cannot be '
                f"imported ({e}): pip install -e '.[{self.name}]'") from None

    def write(self, graph: nn.Module, settings: Settings, file: Path) -> None:
        """Turn a graph into an exported model.

        Args:
            graph (TaskGraph): The graph.
            settings (Settings): How to export it.
            file (Path): The main file. Others are written beside it.

        Raises:
            ExportError: If the converter fails, or warns of layers that the engine
                does not have.
        """
        raise NotImplementedError

    def files(self, file: Path) -> List[Path]:
        """All files of an exported model, without the file of metadata.

        Args:
            file (Path): The main file.
        """
        return [file, *map(file.with_suffix, self.part_endings)]

    def write_info(self, file: Path, info: dict) -> None:
        """Store the metadata beside an exported model, as ``FILE.json``.

        Args:
            file (Path): The main file.
            info (dict): Metadata, see :class:`Session`.
        """
        info = dict(info, sha256={p.suffix: digest(p) for p in self.files(file)})
        info_file(file).write_text(json.dumps(info, indent=1))

    def info(self, file: Path) -> dict:
        """Read the metadata of an exported model.

        Args:
            file (Path): The main file.

        Raises:
            FileNotFoundError: If a file is missing; names it.
            ValueError: If the files do not belong together, or this project did not
                write them.
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
                                 'describes: export the model again')
        return info

    def inspect(self, file: Path, settings: Settings, outputs: Sequence[str]) -> None:
        """Check the specification of an exported model that cannot be run here.

        Args:
            file (Path): The main file.
            settings (Settings): How it was exported.
            outputs (Sequence[str]): Names of its outputs.

        Raises:
            ExportError: If the specification differs from the settings.
        """
        raise NotImplementedError

    def load(self, file: Path, info: dict) -> Callable[[np.ndarray], List[np.ndarray]]:
        """Load an exported model, to run in as many threads as torch has now.

        Args:
            file (Path): The main file.
            info (dict): Metadata, see :class:`Session`.

        Returns:
            Callable: The argument ``run`` of :class:`Session`.
        """
        raise NotImplementedError

    def open(self, file: Path, info: dict) -> Session:
        """Load an exported model as a session.

        Args:
            file (Path): The main file.
            info (dict): Metadata, see :class:`Session`.

        Raises:
            ImportError: If the engine is missing; says what to install.
            ValueError: If the engine does not load it.
        """
        with self.loading(file):
            return Session(info, self.load(file, info))

    @contextmanager
    def loading(self, file: Path) -> Iterator[None]:
        """Turn the engine's errors into a ValueError that names the file."""
        try:
            yield
        except ImportError:
            raise
        except Exception as e:  # engines' errors have no common class
            raise ValueError(
                f'{self.name} does not load {file}: {first_line(e)}') from e


def info_file(file: Path) -> Path:
    """The file with the metadata of an exported model."""
    return file.with_name(f'{file.name}.json')


def checked_info(info, source, **more) -> dict:
    """Check metadata.

    Args:
        info (Any): The metadata as read.
        source (Any): Source of the metadata, for the message.
        **more: Forms of further keys, see :data:`INFO`.

    Returns:
        dict: The metadata.

    Raises:
        ValueError: If a value is missing or wrong; names the key.
    """
    forms = [{**INFO, **more}]
    if isinstance(info, dict) and info.get('outputs') == ['boxes', 'scores']:
        forms.append({'select': object, str: object})
    for form in forms:
        check_json(info, form, f'{source} does not describe an exported model',
                   'export it again with tools/deployment/export.py')
    return info


def first_line(error: Exception) -> str:
    """Class and first line of an error; torch appends its whole graph."""
    return f'{type(error).__name__}: {error}'.splitlines()[0]


@contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """Hide the warnings and the output of converters.

    Args:
        *loggers (str): Names of loggers that log only errors.
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


@contextmanager
def converting(converter: str, *loggers: str) -> Iterator[None]:
    """Convert quietly and without gradients.

    Args:
        converter (str): Name of the converter, for the message.
        *loggers (str): Names of loggers that log only errors.

    Raises:
        ExportError: If the converter raises an error.
    """
    try:
        with quiet(*loggers), torch.no_grad():
            yield
    except Exception as e:  # converters' errors have no common class
        raise ExportError(
            f'{converter} cannot convert the graph: {first_line(e)}') from e


def run_converter(command: Sequence[str], folder: Path) -> str:
    """Run a converter as a command.

    Args:
        command (Sequence[str]): The command.
        folder (Path): Its working directory.

    Returns:
        str: Its output.

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


def usual_range(low: np.ndarray, high: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Limits of feature maps that few calibration images exceed.

    Args:
        low (np.ndarray): Least values, ``(B, ...)`` of B images or batches.
        high (np.ndarray): Largest values, ``(B, ...)``.

    Returns:
        tuple[np.ndarray, np.ndarray]: The limits, ``(...)``. For each limit, no value
        is beyond it in a share of :data:`QUANTILE` of the images.
    """
    # without interpolation, which would include a part of the next image
    return (np.quantile(low, 1 - QUANTILE, axis=0, method='nearest'),
            np.quantile(high, QUANTILE, axis=0, method='nearest'))


def calibration_batches(settings: Settings) -> List[np.ndarray]:
    """Calibration images in batches of the exported size.

    Args:
        settings (Settings): How to export.

    Returns:
        list[np.ndarray]: ``(N, C, H, W)`` each.

    Raises:
        ValueError: If there are too few images for one batch.
    """
    images, step = settings.calibration, settings.shape[0]
    if len(images) < step:
        raise ValueError(f'{len(images)} images to calibrate on, expected at least '
                         f'{step}, the batch size of the exported model')
    return [torch.stack(images[i:i + step]).numpy()
            for i in range(0, len(images) - step + 1, step)]

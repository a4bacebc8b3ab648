# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Export of a task model to an engine, with a check against PyTorch."""
import copy
import shutil
import tempfile
from pathlib import Path
from typing import List, NamedTuple, Optional, Sequence, Tuple

import torch
import torch.nn as nn
from torch import Tensor

from autonl_mm.fold import switch_to_deploy
from autonl_mm.models import AutoNL
from autonl_mm.models.layers import light_nl_scales
from autonl_mm.runs.atomic_files import atomic_dir, atomic_write
from autonl_mm.runs.config_parts import type_name

from . import check
from .engines import Engine, Settings
from .engines.base import info_file
from .graphs import graph_type
from .images import to_batch

# Smallest share of predictions that are the same as in float32
AGREEMENT = dict(fp16=0.98, int8=0.9)
# Added to height and width, so that strides round in different ways
LARGER = ((0, 0), (21, 40), (64, 9))
# As above, for models that take only multiples of their stride
LARGER_BY_STRIDE = ((0, 0), (32, 64), (64, 0))


def make_graph(model: nn.Module,
               dynamic: Sequence[str] = (),
               labels: bool = False,
               preprocess: bool = True,
               selects_boxes: bool = True) -> nn.Module:
    """Make the graph of a model, in deploy form.

    Args:
        model (nn.Module): A task model; it is not changed.
        dynamic (Sequence[str]): Dimensions that may change between runs, from
            :data:`autonl_mm.export.engines.DYNAMIC`. Defaults to ().
        labels (bool): Whether a segmentor gives label maps instead of logits.
            Defaults to False.
        preprocess (bool): Whether the graph includes the data preprocessor. Defaults to
            True.
        selects_boxes (bool): Whether NMS is in a detector's graph. Defaults to True.

    Returns:
        TaskGraph: The graph, in eval mode.

    Raises:
        ValueError: If the model cannot be exported.
    """
    kind = graph_type(model, labels, selects_boxes)
    graph = kind(switch_to_deploy(copy.deepcopy(model)), preprocess)
    if 'size' in dynamic:
        if hasattr(graph, 'select'):
            raise ValueError('--dynamic size needs an engine with NMS in the file: '
                             'with NMS in post-processing the size is fixed')
        graph.use_channel_order()
    return graph.eval()


def describe(graph: nn.Module, settings: Settings) -> dict:
    """Metadata of an exported model.

    Args:
        graph (TaskGraph): The exported graph.
        settings (Settings): Settings of the export; their ``info`` is included.

    Returns:
        dict: See :class:`autonl_mm.export.engines.Session`.
    """
    info = dict(
        settings.info,
        task=graph.task,
        input=settings.sizes,
        outputs=list(graph.outputs),
        preprocess=graph.preprocesses,
        precision=settings.precision,
        light_nl_scales=light_nl_scales(graph))
    for module in graph.modules():
        if isinstance(module, AutoNL):
            info['activations'] = {
                key: cfg and dict(cfg, type=type_name(cfg))
                for key, cfg in module.cfgs.items() if key.endswith('act_cfg')}
    if hasattr(graph, 'select'):
        info['select'] = graph.select(settings.shape)
    return info


def write_file(engine: Engine, graph: nn.Module, settings: Settings,
               file: Path) -> None:
    """Write an exported model, without a check.

    Args:
        engine (Engine): The engine.
        graph (TaskGraph): The graph.
        settings (Settings): How to export it.
        file (Path): The main file.

    Raises:
        ExportError: If the engine's converter fails.
    """
    settings = settings._replace(info=describe(graph, settings))
    engine.write(graph, settings, file)
    engine.write_info(file, settings.info)


class Checked(NamedTuple):
    """Result of a check.

    Attributes:
        differences (list[Difference]): In float32, for each batch.
        agreement (float, optional): In lower precision, the share of equal
            predictions.
        count (int): Number of images in the check.
        strided (bool): Whether height and width must be multiples of 32.
    """
    differences: List[check.Difference]
    agreement: Optional[float]
    count: int
    strided: bool


class Exporter(NamedTuple):
    """Export of a model with a check.

    Attributes:
        engine (Engine): The engine.
        model (nn.Module): The task model, not in deploy form.
        graph (TaskGraph): Its graph, see :func:`make_graph`.
        settings (Settings): How to export it.
        images (list[Tensor]): Images for the check, ``(C, h, w)``.
        tolerance (float): Largest difference in float32, relative to the largest
            output.
        agreement (float): Smallest share of equal predictions in lower precision.
    """
    engine: Engine
    model: nn.Module
    graph: nn.Module
    settings: Settings
    images: List[Tensor]
    tolerance: float
    agreement: float

    def export(self, out: Path) -> Checked:
        """Write the exported model if the check passes, else change nothing.

        Args:
            out (Path): The main file.

        Returns:
            Checked: Result of the check.

        Raises:
            ExportError: If the converter or the check fails.
            ValueError: If the images do not allow a check.
        """
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / out.name
            write_file(self.engine, self.graph, self.settings, file)
            checked = self.check(file)
            # the metadata come last
            for part in [*self.engine.files(file), info_file(file)]:
                if part.is_dir():
                    with atomic_dir(out.with_name(part.name)) as target:
                        shutil.copytree(part, target, dirs_exist_ok=True)
                elif part.exists():
                    atomic_write(out.with_name(part.name), part.read_bytes())
        return checked

    def check(self, file: Path) -> Checked:
        """Compare an exported model with PyTorch.

        Args:
            file (Path): The main file.

        Returns:
            Checked: Result of the check.

        Raises:
            ExportError: If the check fails.
            ValueError: If the images do not allow a check.
        """
        if self.settings.precision == 'fp32':
            batches, strided = self.batches()
        else:
            n, _, *size = self.settings.shape
            batches, strided = [to_batch(self.images, n, size, start)
                                for start in range(0, len(self.images), n)], False
        with torch.no_grad():
            expected = [self.graph.reference(self.model, b) for b in batches]
            inputs = [self.graph.prepare(b) for b in batches]
        if not self.engine.runs:
            self.engine.inspect(file, self.settings, self.graph.outputs)
            return Checked([], None, 0, strided)
        outputs = check.run_exported(file, inputs)
        count = sum(map(len, batches))
        if self.settings.precision == 'fp32':
            found = check.differences(self.graph, outputs, expected, batches,
                                      self.tolerance, self.engine.name)
            return Checked(found, None, count, strided)
        share = check.agreement(self.graph, outputs, expected, self.agreement,
                                self.engine.name)
        return Checked([], share, count, strided)

    def batches(self) -> Tuple[List[Tensor], bool]:
        """Batches for the check, of several sizes and batch sizes if these are dynamic.

        Returns:
            tuple[list[Tensor], bool]: The batches, and whether height and width must
            be multiples of 32.
        """
        n, _, height, width = self.settings.shape
        dynamic = self.settings.dynamic

        def make(larger):
            sizes = [(height + h, width + w) for h, w in larger]
            counts = [n]
            if 'size' not in dynamic:
                sizes = sizes[:1]
            if 'batch' in dynamic:
                counts += [m for m in (1, 2, 3) if m != n]
            # several batches also for a fixed shape
            total = max(len(counts), len(sizes), 3)
            return [to_batch(self.images, counts[i % len(counts)],
                             sizes[i % len(sizes)], 3 * i) for i in range(total)]

        found = make(LARGER)
        if 'size' in dynamic:
            if not self.graph.preprocesses and self.graph.preprocess.divisor > 1:
                return make(LARGER_BY_STRIDE), True
            try:
                with torch.no_grad():
                    self.graph.reference(self.model, found[1][:1])
            except RuntimeError:  # feature maps do not fit together in the model
                return make(LARGER_BY_STRIDE), True
        return found, False

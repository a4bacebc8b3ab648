# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Write the report of a demo: one HTML file that contains all its images.

It reads the work dir of tools/demo.py, which runs this tool as its last step.
"""
import argparse
import base64
import io
import json
import os
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import List, Tuple

import cv2
import jinja2
import matplotlib
import sklearn.datasets
import torch
from mmengine.config import Config
from mmpretrain import ImageClassificationInferencer

from autonl_mm import get_model
from autonl_mm.arch import resolve_arch
from autonl_mm.measure.scatter import scatter_networks
from autonl_mm.measure.timing import Spread
from autonl_mm.named_networks import NAMED_NETWORKS
from autonl_mm.runs.atomic_files import atomic_write
from autonl_mm.runs.scalars import read_scalars
from autonl_mm.version import __version__

matplotlib.use('Agg')
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = Path(__file__).with_suffix('.html')
MODELS = dict(
    search='Search for a RetinaNet', classifier='Classifier', detector='RetinaNet',
    segmentor='Semantic FPN', **{'plain-detector': 'RetinaNet without LightNL'})
# A network whose weights may be installed, and photographs that ship with scikit-learn
PRETRAINED, PHOTOGRAPHS = 'tf_efficientnet_lite0', ('china.jpg', 'flower.jpg')
# From a metric to its name in the report and its factor to per cent
METRICS = {'accuracy/top1': ('top-1', 1), 'coco/bbox_mAP_50': ('mAP50', 100),
           'mIoU': ('mIoU', 1)}
# A config beside the report, for the first of its commands
OWN_IMAGES = """\
# AutoNL-S on your own images, in DATA/train/CLASS/ and DATA/val/CLASS/.
_base_ = {base!r}

data_root = 'data/my_images'
num_classes = 3
size = 128
max_epochs = 30

train_pipeline = [
    dict(type='autonl_mm.LoadImageOrSkip'),
    dict(type='RandomResizedCrop', scale=size, crop_ratio_range=(0.35, 1.0)),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='autonl_mm.LoadImageOrSkip', skip=False),
    dict(type='ResizeEdge', scale=size * 8 // 7, edge='short'),
    dict(type='CenterCrop', crop_size=size),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    num_workers=2, dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=32, dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_dataloader = val_dataloader
data_preprocessor = dict(num_classes=num_classes)
model = dict(head=dict(num_classes=num_classes))
param_scheduler = dict(total_steps=max_epochs)
train_cfg = dict(max_epochs=max_epochs)
"""


def embed(content: bytes) -> str:
    """The address of an image that contains the image, a PNG or JPEG file."""
    kind = 'png' if content.startswith(b'\x89PNG') else 'jpeg'
    return f'data:image/{kind};base64,{base64.b64encode(content).decode()}'


def plot_curves(train: List[dict], values: List[Tuple[int, float]], name: str) -> bytes:
    """Plot the loss and the metric by epoch.

    Args:
        train (list[dict]): The training records.
        values (list[tuple[int, float]]): Epochs, and the metric in per cent.
        name (str): The name of the metric.

    Returns:
        bytes: A PNG file.
    """
    fig, (left, right) = plt.subplots(1, 2, figsize=(5.2, 2.3))
    # a record's step counts iterations, and its epoch starts at 1
    epochs = values[-1][0] / max(r['step'] for r in train)
    left.plot([r['step'] * epochs for r in train], [r['loss'] for r in train],
              color='#4c78a8')
    right.plot(*zip(*values), marker='o', color='#b33a3a')
    left.set(xlabel='epoch', ylabel='training loss')
    right.set(xlabel='epoch', ylabel=f'{name}, %')
    for ax in (left, right):
        ax.set_ylim(bottom=0)
        ax.grid(alpha=0.3)
        ax.xaxis.get_major_locator().set_params(integer=True)
    return to_png(fig)


def plot_networks(rows: List[dict]) -> bytes:
    """Plot published accuracy against measured time.

    Args:
        rows (list[dict]): Networks of ``tools/benchmarks/compare_backbones.py``.

    Returns:
        bytes: A PNG file.
    """
    fig, ax = plt.subplots(figsize=(5.2, 3.4))
    scatter_networks(ax, [
        (1e3 * Spread.of(row['seconds']['latency']).median, row['top1'], row['name'],
         row['config'].startswith('autonl') or 'light-nl' in row['config'])
        for row in rows])
    ax.set(xlabel='one image, ms on this machine', ylabel='published top-1, %')
    return to_png(fig)


def to_png(fig: plt.Figure) -> bytes:
    """The PNG file of a plot, which is closed."""
    fig.tight_layout()
    file = io.BytesIO()
    fig.savefig(file, dpi=160)
    plt.close(fig)
    return file.getvalue()


def read_photographs() -> List[Tuple[bytes, str]]:
    """Photographs as JPEG files, each with its three most probable classes.

    The network has ImageNet weights from a package. There are none without it.
    """
    if find_spec(NAMED_NETWORKS[PRETRAINED].package[0]) is None:
        return []
    model = get_model(PRETRAINED, pretrained=True, arch=resolve_arch(
        PRETRAINED).with_light_nl(stride=2))
    inferencer = ImageClassificationInferencer(model)
    found = []
    for name in PHOTOGRAPHS:
        path = Path(sklearn.datasets.__file__).parent / 'images' / name
        scores = inferencer(str(path))[0]['pred_scores']
        best = sorted(range(len(scores)), key=lambda i: -scores[i])[:3]
        _, jpeg = cv2.imencode('.jpg', cv2.imread(str(path)))
        found.append((jpeg.tobytes(), ', '.join(
            f'{inferencer.classes[i]} {scores[i]:.0%}' for i in best)))
    return found


def read_training(folder: Path, metric: str) -> dict:
    """The data of a training for the report.

    Args:
        folder (Path): Its work dir.
        metric (str): The name of its metric in the logs.
    """
    name, factor = METRICS[metric]
    train, evaluation, _ = read_scalars(folder)
    values = [(record['step'], factor * record[metric]) for record in evaluation]
    return dict(title=MODELS[folder.name], metric=name, epochs=values[-1][0],
                value=f'{values[-1][1]:.1f}%', curves=plot_curves(train, values, name))


def read_latency(out: Path) -> dict:
    """The measurements, with the numbers as the report shows them.

    Args:
        out (Path): The work dir.
    """
    measured = json.loads((out / 'latency.json').read_text())
    for model in measured['models']:
        model['times'] = {}
        for form, seconds in model['seconds'].items():
            ms = Spread.of([1e3 * s for s in seconds])
            model['times'][form] = f'{ms.median:.1f} ({ms.low:.1f} to {ms.high:.1f})'
            measured['rounds'] = len(seconds)
    return measured


def clock(seconds: float) -> str:
    """``1:05`` for 65 seconds."""
    return f'{round(seconds) // 60}:{round(seconds) % 60:02d}'


def tool(path: str) -> str:
    """Path of a file of the project, relative to the working folder."""
    return os.path.relpath(ROOT / path)


def make_report(out: Path) -> str:
    """The report as HTML; the config of its first command is written too.

    Args:
        out (Path): The work dir.

    Raises:
        FileNotFoundError: If a step left no result.
    """
    base = ROOT / 'configs/demo/autonl-s_1xb32_demo-cls.py'
    atomic_write(out / 'own_images.py',
                OWN_IMAGES.format(base=os.path.relpath(base, out)))
    Config.fromfile(out / 'own_images.py')  # raises if it cannot be read
    plan = json.loads((out / 'plan.json').read_text())
    steps = [step for step in plan['steps'] if step['done']]
    detector = out / 'detector'
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent), autoescape=True,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(
        clock=clock, embed=embed, file=lambda name: (out / name).read_bytes())
    trainings = {step['name']: read_training(out / step['name'], step['metric'])
                 for step in steps if step['metric']}
    return environment.get_template(TEMPLATE.name).render(
        out=out, full=plan['full'], steps=steps, tool=tool, trainings=trainings,
        # a search gives no network to measure
        models=[t['title'] for name, t in trainings.items() if name != 'search'],
        latency=read_latency(out), photographs=read_photographs(),
        networks=plot_networks(json.loads(
            (out / 'networks.json').read_text())['rows']),
        config=next(detector.glob('*.py')), checkpoint=os.path.relpath(
            detector / Path((detector / 'last_checkpoint').read_text().strip()).name),
        version=__version__, torch=torch.__version__,
        date=time.strftime('%Y-%m-%d %H:%M'))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dir', type=Path, help='work dir of tools/demo.py')
    out = parser.parse_args().work_dir
    try:
        atomic_write(out / 'report.html', make_report(out))
    except (FileNotFoundError, KeyError, ValueError) as e:
        sys.exit(f'demo_report.py: {e}')
    print(out / 'report.html')


if __name__ == '__main__':
    main()

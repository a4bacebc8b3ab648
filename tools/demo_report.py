# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Write the report of a demo: one HTML file that has all it shows inside of itself.

Reads what tools/demo.py left in a work dir, which runs this tool as its last step.
"""
import argparse
import base64
import io
import json
import os
import sys
import time
from pathlib import Path
from typing import Dict, List, NamedTuple

import jinja2
import matplotlib
import torch
from mmengine.config import Config

from autonl_mm.benchmark.measure import Spread
from autonl_mm.benchmark.records import read_scalars
from autonl_mm.checkpoint import write_whole
from autonl_mm.version import __version__

matplotlib.use('Agg')
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = Path(__file__).with_suffix('.html')
MODELS = dict(
    search='Search for a RetinaNet', classifier='Classifier', detector='RetinaNet',
    segmentor='Semantic FPN')
# From a metric to its name in the report and its factor to per cent
METRICS = {'accuracy/top1': ('top-1', 1), 'coco/bbox_mAP_50': ('mAP50', 100),
           'mIoU': ('mIoU', 1)}
# Written beside the report, for the first of the commands to go on with
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


class Training(NamedTuple):
    """A training of the demo.

    Args:
        name (str): The name of its step.
        folder (Path): Its work dir.
        metric (str): The name of its metric in the report.
        train (list[dict]): What was logged of the training.
        evaluation (list[tuple]): Epochs and values of the metric, in per cent.
    """
    name: str
    folder: Path
    metric: str
    train: List[dict]
    evaluation: List[tuple]

    @classmethod
    def of(cls, step: dict, out: Path) -> 'Training':
        """Read a step's logs, in the work dir ``out``."""
        name, factor = METRICS[step['metric']]
        folder = out / Path(step['folder']).name
        train, evaluation, _ = read_scalars(folder)
        return cls(step['name'], folder, name, train,
                   [(r['step'], factor * r[step['metric']]) for r in evaluation])

    @property
    def title(self) -> str:
        """What was trained."""
        return MODELS[self.name]

    @property
    def checkpoint(self) -> str:
        """Its last checkpoint, relative to the working folder."""
        noted = (self.folder / 'last_checkpoint').read_text().strip()
        return os.path.relpath(self.folder / Path(noted).name)


def data_uri(content: bytes, kind: str) -> str:
    """An image as the address of itself."""
    return f'data:image/{kind};base64,{base64.b64encode(content).decode()}'


def embed(path: Path) -> str:
    """An image file as the address of itself."""
    return data_uri(path.read_bytes(), {'.jpg': 'jpeg'}.get(path.suffix, 'png'))


def plot_curves(training: Training) -> str:
    """The loss by epoch and the metric by epoch, as the address of the image."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(5.2, 2.3))
    # a record's step counts iterations, and its epoch starts at 1
    iterations = max(r['step'] for r in training.train)
    last = training.evaluation[-1][0]
    left.plot([r['step'] * last / iterations for r in training.train],
              [r['loss'] for r in training.train], color='#4c78a8')
    right.plot(*zip(*training.evaluation), marker='o', color='#b33a3a')
    left.set(xlabel='epoch', ylabel='training loss')
    right.set(xlabel='epoch', ylabel=f'{training.metric}, %')
    for ax in (left, right):
        ax.set_ylim(bottom=0)
        ax.grid(alpha=0.3)
        ax.xaxis.get_major_locator().set_params(integer=True)
    fig.tight_layout()
    file = io.BytesIO()
    fig.savefig(file, dpi=160)
    plt.close(fig)
    return data_uri(file.getvalue(), 'png')


def figure(path: Path, caption: str) -> dict:
    return dict(source=embed(path), caption=caption)


def make_sections(out: Path, trainings: List[Training], full: bool) -> List[dict]:
    """The sections with images.

    Args:
        out (Path): The work dir.
        trainings (list[Training]): The trainings.
        full (bool): Whether a network was searched.
    """
    sections = [dict(
        title='Curves', layout='pair',
        text='The training loss, and the metric on images that are made of scans which '
        'are not used for training.',
        figures=[dict(source=plot_curves(t), caption=f'{t.title}: {t.metric} '
                      f'{t.evaluation[-1][1]:.1f}% after epoch {t.evaluation[-1][0]}')
                 for t in trainings])]
    sections.append(dict(
        title='Predictions', layout='pair',
        text='Images of the validation set, with the annotation left and the '
        'prediction right.',
        figures=[figure(out / f'{t.name}-predictions.jpg', t.title)
                 for t in trainings if t.name in ('detector', 'segmentor')]))
    network = 'the network that was searched' if full else 'AutoNL-S'
    sections.append(dict(
        title='The network', layout='wide',
        text='Each bar is a block: its height is the expand ratio, its colour the '
        'kernel size. Labels above the bars are squeeze-excite and LightNL, numbers '
        'below them the channels and the stride.',
        figures=[figure(out / 'network.png', f'The blocks of {network}')]))
    if full:
        sections.append(dict(
            title='The search', layout='wide',
            text='The cost, the margins of the gates, and the final decisions.',
            figures=[figure(out / 'decisions.png', 'Cost and decisions by epoch')]))
    else:
        sections.append(dict(
            title="LightNL's attention", layout='wide',
            text='What three positions attend to, in three LightNL layers of the '
            'segmentor: red has a positive weight, blue a negative one.',
            figures=[figure(out / 'attention.jpg', 'A row for each layer, a column '
                            'for each position')]))
    return sections


def make_latency(out: Path, names: List[str]) -> dict:
    """The table of the forward passes.

    Args:
        out (Path): The work dir.
        names (list[str]): Names of the models.
    """
    measured = json.loads((out / 'latency.json').read_text())
    rows, rounds = [], 0
    for name, model in zip(names, measured['models']):
        times = list(model['seconds'].values())
        rounds = len(times[0])
        spreads = [Spread.of([1e3 * t for t in values]) for values in times]
        rows.append(dict(
            name=name, parameters=f'{model["parameters"] / 1e6:.2f} M',
            shape='\N{MULTIPLICATION SIGN}'.join(map(str, model['input_shape'])),
            times=[f'{s.median:.1f} ({s.low:.1f} to {s.high:.1f})' for s in spreads]))
    return dict(
        rows=rows, forms=list(measured['models'][0]['seconds']),
        text=f'Forward passes of {measured["batch_size"]} image on this machine '
        f'({measured["device"]}), float32, channels last, without boxes and NMS: '
        f'median (fastest to slowest) of {rounds} passes in turns.')


def make_steps(out: Path, plan: dict) -> dict:
    """The table of the steps."""
    rows, total = [], 0.
    for step in plan['steps']:
        record = out / 'steps' / f'{step["name"]}.json'
        if step['name'] == 'report' or not record.exists():
            continue
        seconds = json.loads(record.read_text())['seconds']
        total += seconds
        rows.append(dict(name=step['name'], title=step['title'], time=clock(seconds)))
    return dict(
        rows=rows,
        text=f'The steps took {clock(total)} minutes, some at the same time.')


def clock(seconds: float) -> str:
    """``1:05`` for 65 seconds."""
    return f'{round(seconds) // 60}:{round(seconds) % 60:02d}'


def make_commands(out: Path, trainings: Dict[str, Training], full: bool) -> List[dict]:
    """Three commands to go on with."""
    config = out / 'own_images.py'
    base = ROOT / 'configs/demo/autonl-s_1xb32_demo-cls.py'
    write_whole(config, OWN_IMAGES.format(base=os.path.relpath(base, out)))
    detector = trainings['detector']
    exported = next(detector.folder.glob('*.py'))
    search = dict(
        text='Search a network for a segmentor on these images.',
        command=f'python {tool("tools/train.py")} '
        f'{tool("configs/demo/autonl-supernet_semantic-fpn_1xb8_demo-seg.py")}'
    ) if full else dict(
        text='Search a network for a detector on these images, and retrain it.',
        command=f'python {tool("tools/demo.py")} --full')
    return [
        dict(text='Train AutoNL-S on your own images: set data_root and num_classes '
             f'in {config}, then',
             command=f'python {tool("tools/train.py")} {config}'),
        search,
        dict(text='Export the detector as a checked ONNX file, and compare its speed.',
             command=f'python {tool("tools/deployment/export.py")} {exported} '
             f'{detector.checkpoint} --out {out}/detector.onnx'),
    ]


def tool(path: str) -> str:
    """Path of a file of the project, relative to the working folder."""
    return os.path.relpath(ROOT / path)


def make_report(out: Path) -> str:
    """The report as HTML.

    Args:
        out (Path): The work dir.

    Raises:
        FileNotFoundError: If a step left no result.
    """
    plan = json.loads((out / 'plan.json').read_text())
    trainings = [Training.of(s, out) for s in plan['steps'] if s['metric']]
    full = plan['full']
    steps = make_steps(out, plan)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent), autoescape=True,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template(TEMPLATE.name).render(
        title='AutoNL demo: ' + (
            'a searched network' if full else 'AutoNL-S') + ' on handwritten digits',
        about='Digits that ship with scikit-learn, on textured backgrounds. The demo '
        'shows that the installation works and what a run looks like; its accuracy '
        'says nothing about photographs.',
        cards=[dict(name=t.title, value=f'{t.evaluation[-1][1]:.1f}%',
                    text=f'{t.metric} after {t.evaluation[-1][0]} epochs')
               for t in trainings],
        sections=make_sections(out, trainings, full),
        # of a search there is no network to measure
        latency=make_latency(out, [t.title for t in trainings if t.name != 'search']),
        steps=steps, commands=make_commands(
            out, {t.name: t for t in trainings}, full),
        footer=f'autonl_mm {__version__}, torch {torch.__version__}, '
        f'{time.strftime("%Y-%m-%d %H:%M")}. Logs, checkpoints and images are in '
        f'{out}.')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dir', type=Path, help='work dir of tools/demo.py')
    out = parser.parse_args().work_dir
    try:
        write_whole(out / 'report.html', make_report(out))
    except (FileNotFoundError, KeyError, ValueError) as e:
        sys.exit(f'demo_report.py: {e}')
    Config.fromfile(out / 'own_images.py')  # raises if it cannot be read
    print(out / 'report.html')


if __name__ == '__main__':
    main()

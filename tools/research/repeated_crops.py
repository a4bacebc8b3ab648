# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Show what LightNL can do that a convolution cannot: find what occurs twice.

    python tools/research/repeated_crops.py data/camvid/leftImg8bit

A canvas of 64x64 has eight small crops of photographs, four different ones and two that
occur twice. A small network says of each pixel of a crop whether its crop occurs twice,
which is so for half of them. The table has the accuracy of each form of
configs/_base_/models/light-nl_forms.py. Its crops are of photographs not trained on.
"""
import argparse
import logging
import statistics
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from torch import nn
from tqdm import trange

from autonl_mm.registry import MODELS
from autonl_mm.runs.allocator import keep_freed_memory
from autonl_mm.runs.tables import markdown_table

FORMS = Path(__file__).resolve().parents[2] / 'configs/_base_/models/light-nl_forms.py'
CANVAS, CELL, CROP = 64, 16, 12
STRIDE = 4  # of the network; crops are shifted by multiples of it
ARCH = ['r1_k3_s11_e1_i16_o16', 'r1_k3_s22_e3_i16_o32', 'r3_k3_s11_e3_i32_o32']
SUFFIXES = ('.jpg', '.jpeg', '.png')


def read_crops(paths, count, rng):
    """Crops of 48x48, reduced to 12x12; each is the most varied of eight.

    Args:
        paths (list[Path]): The photographs.
        count (int): Number of crops.
        rng (Generator): Random numbers.

    Returns:
        ndarray: ``(count, 12, 12, 3)``, about -2 to 2.
    """
    crops, side = [], 4 * CROP
    for path in paths:
        image = cv2.imread(str(path))
        if image is None or min(image.shape[:2]) < side:
            raise ValueError(f'{path} is not a photograph of at least {side}x{side}')
        for _ in range(-(-count // len(paths))):
            corners = rng.integers(0, np.array(image.shape[:2]) - side + 1, (8, 2))
            some = [cv2.resize(image[y:y + side, x:x + side], (CROP, CROP),
                               interpolation=cv2.INTER_AREA) for y, x in corners]
            crops.append(max(some, key=np.std))
    return (np.stack(crops[:count]).astype(np.float32) - 127) / 64


def draw(crops, count, rng):
    """Canvases with eight crops each.

    Args:
        crops (ndarray): ``(K, 12, 12, 3)``.
        count (int): Number of canvases N.
        rng (Generator): Random numbers.

    Returns:
        tuple[Tensor, Tensor]: Canvases ``(N, 3, 64, 64)``; for each 4x4 pixels, 1 if
        their crop occurs twice, 0 if it does not, and nan between the crops, ``(N, 16,
        16)``.
    """
    images = np.zeros((count, CANVAS, CANVAS, 3), np.float32)
    labels = np.full((count, CANVAS // STRIDE, CANVAS // STRIDE), np.nan, np.float32)
    cells = CANVAS // CELL
    for image, label in zip(images, labels):
        chosen = rng.choice(len(crops), 6, replace=False)[[0, 0, 1, 1, 2, 3, 4, 5]]
        places = np.stack(np.divmod(rng.choice(cells**2, 8, replace=False), cells), 1)
        corners = CELL * places + STRIDE * rng.integers(
            0, (CELL - CROP) // STRIDE + 1, (8, 2))
        for i, (crop, (y, x)) in enumerate(zip(chosen, corners)):
            image[y:y + CROP, x:x + CROP] = crops[crop]
            y, x, side = y // STRIDE, x // STRIDE, CROP // STRIDE
            label[y:y + side, x:x + side] = i < 4
    return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels)


def accuracy_of(plugins, cfg, crops, seed, args):
    """Train a network and evaluate it on 512 canvases.

    Args:
        plugins (list[dict]): The form.
        cfg (Config): The config of the forms.
        crops (tuple[ndarray, ndarray]): To train on, and to evaluate on.
        seed (int): Of the canvases and the weights, which are the same for all forms,
            except for the weights of the forms.
        args (Namespace): The tool's arguments.

    Returns:
        float: In %.
    """
    torch.manual_seed(seed)
    backbone = MODELS.build(dict(
        type='autonl_mm.PluginBackbone',
        backbone=dict(type='autonl_mm.AutoNL', arch=ARCH, out_indices=(2, ),
                      norm_cfg=cfg.norm_cfg),
        plugins=plugins))
    # Building the plug-ins took random numbers.
    torch.manual_seed(seed)
    head = nn.Conv2d(32, 1, 1)
    backbone.init_weights()
    model = nn.Sequential(backbone, head)
    model[0].forward = lambda x, forward=backbone.forward: forward(x)[0]
    model = model.to(memory_format=torch.channels_last)
    optimizer = build_optim_wrapper(model, dict(
        optimizer=dict(type='AdamW', lr=3e-3, weight_decay=0.05),
        paramwise_cfg=cfg.paramwise_cfg)
    ).optimizer
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [group['lr'] for group in optimizer.param_groups],
        total_steps=args.iterations, pct_start=0.2)
    rng = np.random.default_rng(seed)
    for _ in trange(args.iterations, leave=False):
        images, labels = draw(crops[0], args.batch_size, rng)
        known = ~labels.isnan()
        loss = F.binary_cross_entropy_with_logits(
            model(images)[:, 0][known], labels[known])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()
    right = total = 0
    with torch.no_grad():
        for _ in range(8):
            images, labels = draw(crops[1], 64, rng)
            known = ~labels.isnan()
            right += ((model(images)[:, 0] > 0) == labels)[known].sum().item()
            total += known.sum().item()
    return 100 * right / total


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('photographs', type=Path, help='folder of images, at any depth')
    cfg = Config.fromfile(FORMS)
    parser.add_argument('--steps', nargs='+', metavar='NAME', choices=list(cfg.steps),
                        default=list(cfg.steps), help='forms; default: all')
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--iterations', type=int, default=600)
    parser.add_argument('--batch-size', type=int, default=32)
    args = parser.parse_args()
    logging.disable(logging.INFO)
    print(keep_freed_memory())
    paths = sorted(p for p in args.photographs.rglob('*')
                   if p.suffix.lower() in SUFFIXES)
    if len(paths) < 10:
        sys.exit(f'repeated_crops.py: {args.photographs} has {len(paths)} images '
                 f'{", ".join(SUFFIXES)}, expected at least 10')
    rng = np.random.default_rng(0)
    held_out = set(paths[::5])
    try:
        crops = [read_crops(part, count, rng) for part, count in (
            ([p for p in paths if p not in held_out], 4096), (paths[::5], 1024))]
    except ValueError as e:
        sys.exit(f'repeated_crops.py: {e}')
    rows = []
    for name in args.steps:
        values = [accuracy_of(cfg.steps[name], cfg, crops, seed, args)
                  for seed in range(args.seeds)]
        rows.append([name.replace('_', ' '), *(f'{v:.1f}' for v in values),
                     f'{statistics.mean(values):.1f}'])
        print(rows[-1], flush=True)
    print(markdown_table(['step', *(f'seed {i}' for i in range(args.seeds)), 'mean'],
                         rows))


if __name__ == '__main__':
    main()

# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Measure on how many images a network's features or outputs blow up.

Images of the config's test data are disturbed in many ways. For each disturbance the
table has the share of images whose features or outputs are not finite, and the share
of images whose features or outputs are finite but beyond ten times the median of the
undisturbed images. The size of an image is its largest absolute value.

Each checkpoint is measured with the LightNL of its training: the paper's LightNL, the
bounded LightNL or none. All other parts must fit the config. Without checkpoints, the
config's network is measured at initialisation in each of these forms. All weights of
LightNL's normalisation are then 1, and BN has the statistics of training images.
"""
import argparse
import json
import logging
import sys
from pathlib import Path

import cv2
import matplotlib
import torch
import torch.nn.functional as F
from mmengine.runner import CheckpointLoader
from tqdm import tqdm

from autonl_mm.arch import NORMALIZE
from autonl_mm.export.images import config_images, to_batch
from autonl_mm.models.layers import LightNL
from autonl_mm.models.layers.light_nl import RMS_MARK
from autonl_mm.runs import configs, outputs
from autonl_mm.runs.allocator import keep_freed_memory
from autonl_mm.runs.atomic_files import atomic_write
from autonl_mm.runs.checkpoints import (
    BrokenCheckpointError,
    UnsafeCheckpointError,
    weights_of,
)
from autonl_mm.runs.tables import markdown_table

matplotlib.use('Agg')
import matplotlib.pyplot as plt

CALIBRATION = 768  # training images for BN statistics at initialisation
FORMS = (*NORMALIZE, 'none')
BEYOND = 10  # times the median of undisturbed images
FACTORS = (0.5, 0.75, 1, 1.25, 1.5, 2, 2.5, 3)
# What is done to the images: name, unit of the values, values.
CONDITIONS = {
    'contrast': FACTORS,  # of normalised pixels, without clipping
    'brightness': FACTORS,  # of pixels, clipped to 255
    'resolution': (0.5, 0.75, 1, 1.25, 1.5, 2),
    'noise': (10, 25, 50, 100),  # standard deviation, of pixels from 0 to 255
    'jpeg': (50, 20, 10, 5),  # quality
    'constant': (0, 255),  # black and white images
}


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    configs.add_config_args(parser)
    parser.add_argument('checkpoints', nargs='*', metavar='checkpoint',
                        help='checkpoint files; default: at initialisation')
    configs.add_input_shape(parser)
    parser.add_argument(
        '--num-samples', type=int, default=256, help='test images, default 256')
    parser.add_argument(
        '--batch-size', type=int, default=32, help='images at a time, default 32')
    configs.add_device(parser)
    parser.add_argument('--out', help='file for the measurements, .json')
    parser.add_argument('--plot', help='file for the plot, such as stability.png')
    return parser.parse_args()


def light_nls(model):
    """The LightNL layers of a model."""
    return [m for m in model.modules() if isinstance(m, LightNL)]


def use_form(model, form):
    """Give all LightNLs of a model one of :data:`FORMS`; with ``'none'`` they add
    nothing."""
    for layer in light_nls(model):
        if form == 'none':
            layer.branch = lambda x, weight=None: torch.zeros_like(x)
            continue
        layer.normalize = form
        if form == 'rms':
            layer.register_buffer(RMS_MARK, torch.tensor(1))
        else:
            layer._buffers.pop(RMS_MARK, None)


def trained(cfg, path):
    """The model of a checkpoint in eval mode, and the form of its LightNLs.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it does not fit the config.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'checkpoint {path!r} does not exist')
    checkpoint = CheckpointLoader.load_checkpoint(path, map_location='cpu')
    state = weights_of(checkpoint, path)
    model = configs.build_model(cfg)
    names = {name for name, module in model.named_modules()
             if isinstance(module, LightNL)}
    form = 'none'
    if any(f'{name}.conv.weight' in state for name in names):
        marked = any(f'{name}.{RMS_MARK}' in state for name in names)
        form = 'rms' if marked else 'size'
    use_form(model, form)
    missing, unexpected = model.load_state_dict(state, strict=False)
    if form == 'none':
        missing = [key for key in missing if key.rsplit('.', 2)[0] not in names
                   and key.rsplit('.', 1)[0] not in names]
    if missing or unexpected:
        raise ValueError(f'{path} does not fit the config: it lacks '
                         f'{len(missing)} tensors, such as {missing[:1]}, and has '
                         f'{len(unexpected)} unknown tensors, such as '
                         f'{unexpected[:1]}')
    return model, form


@torch.no_grad()
def initialised(cfg, form, batches, device):
    """The model in eval mode as it is before training, with LightNL switched on and
    BN statistics of batches of training images."""
    torch.manual_seed(0)  # the same weights for every form
    model = configs.build_model(cfg)
    logging.disable(logging.INFO)  # mmengine lists every parameter
    model.init_weights()
    logging.disable(logging.NOTSET)
    use_form(model, form)
    for layer in light_nls(model):
        if getattr(layer.norm, 'weight', None) is not None:
            torch.nn.init.ones_(layer.norm.weight)
    model.to(device)
    norms = [m for m in model.modules()
             if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the average over all batches
    model.train()
    for batch in batches:
        run(model, batch)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
    model.eval()
    return model


def tensors_in(value):
    """The floating-point tensors in nested sequences and dicts."""
    if isinstance(value, torch.Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return []
    return [tensor for item in value for tensor in tensors_in(item)]


def size_of(value, count):
    """Largest absolute value of each image, ``(count, )``, on the CPU; NaN where there
    is one."""
    return torch.stack([
        t.detach().float().reshape(count, -1).abs().amax(1)
        for t in tensors_in(value)
    ]).amax(0).cpu()


@torch.no_grad()
def run(model, images, contrast=1.0):
    """Sizes ``(N, )`` of the backbone's ``features`` and the heads' ``outputs`` for
    images ``(N, 3, H, W)`` as the config's pipeline loads them, with normalised
    pixels times ``contrast``."""
    kept = {}
    handle = model.backbone.register_forward_hook(
        lambda module, args, out: kept.update(features=size_of(out, len(images))))
    # Preprocessors normalise and pad lists of images as well as batches.
    inputs = model.data_preprocessor(
        dict(inputs=list(images)), False)['inputs'] * contrast
    try:
        kept['outputs'] = size_of(model(inputs, mode='tensor'), len(images))
    finally:
        handle.remove()
    return kept


def disturbed(images, kind, value):
    """Images ``(N, 3, H, W)`` with pixels from 0 to 255, disturbed by one of
    :data:`CONDITIONS`: ``(N, 3, H', W')``."""
    if kind == 'brightness':
        return (images * value).clamp(0, 255)
    if kind == 'resolution':
        size = [max(1, round(n * value)) for n in images.shape[2:]]
        if list(images.shape[2:]) == size:
            return images
        return F.interpolate(images, size, mode='bilinear', antialias=value < 1)
    if kind == 'noise':
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(images.shape, generator=generator)
        return (images + value * noise).clamp(0, 255)
    if kind == 'jpeg':
        return torch.stack([compressed(image, value) for image in images])
    if kind == 'constant':
        return torch.full_like(images[:1], value)
    return images


def compressed(image, quality):
    """An image ``(3, H, W)`` after JPEG compression."""
    pixels = image.clamp(0, 255).byte().permute(1, 2, 0).contiguous().numpy()
    code = cv2.imencode('.jpg', pixels, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])[1]
    return torch.from_numpy(cv2.imdecode(code, 1)).permute(2, 0, 1).float()


def measure(model, images, batch_size, name):
    """Shares of images of a network under all conditions.

    Returns:
        list[dict]: For each condition ``kind`` and ``value``, and for ``features``, for
        ``outputs`` and for ``either`` the shares of images that are ``not_finite`` and
        ``beyond``.
    """
    def sizes(kind, value):
        contrast = value if kind == 'contrast' else 1.0
        parts = [run(model, disturbed(batch, kind, value), contrast)
                 for batch in (images[:1] if kind == 'constant' else images
                               ).split(batch_size)]
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}

    usual = {}
    for key, size in sizes('contrast', 1).items():
        finite = size[size.isfinite()]
        usual[key] = finite.median() if len(finite) else torch.tensor(float('nan'))
    rows = []
    conditions = [(k, v) for k, values in CONDITIONS.items() for v in values]
    for kind, value in tqdm(conditions, desc=name, leave=False):
        found = sizes(kind, value)
        lost = {key: ~size.isfinite() for key, size in found.items()}
        # Not "size > ...": where no image at all is finite, none is usual.
        large = {key: ~(size <= BEYOND * usual[key]) & ~lost[key]
                 for key, size in found.items()}
        lost['either'] = lost['features'] | lost['outputs']
        large['either'] = (large['features'] | large['outputs']) & ~lost['either']
        rows.append(dict(
            kind=kind, value=value, images=len(lost['either']),
            **{key: dict(not_finite=lost[key].float().mean().item(),
                         beyond=large[key].float().mean().item())
               for key in lost}))
    return rows


def table(results):
    """The shares as Markdown, a column for each network."""
    return markdown_table(['images', *results], [
        [f'{rows[0]["kind"]} {rows[0]["value"]:g}',
         *(f'{100 * r["either"]["not_finite"]:.1f} + '
           f'{100 * r["either"]["beyond"]:.1f}' for r in rows)]
        for rows in zip(*results.values())])


def plot(results, path):
    """Plot the shares of images that are not finite or beyond."""
    kinds = [kind for kind in CONDITIONS if kind != 'constant']
    figure, axes = plt.subplots(
        1, len(kinds), figsize=(3 * len(kinds), 3), sharey=True,
        layout='constrained')
    for ax, kind in zip(axes, kinds):
        for name, rows in results.items():
            rows = [row for row in rows if row['kind'] == kind]
            ax.plot([row['value'] for row in rows],
                    [100 * sum(row['either'].values()) for row in rows],
                    marker='.', label=name)
        ax.set_xlabel(kind)
        if kind == 'jpeg':  # quality: the strongest change is to the right
            ax.invert_xaxis()
        ax.set_ylim(-3, 103)
        ax.spines[['top', 'right']].set_visible(False)
    axes[0].set_ylabel(f'% not finite or beyond {BEYOND} times')
    axes[0].legend(frameon=False)
    outputs.save_figure(figure, path, dpi=120)
    plt.close(figure)


def networks(args, cfg, shape):
    """The networks to measure, one by one, each with its name."""
    for path in args.checkpoints:
        model, form = trained(cfg, path)
        # Checkpoints of a comparison often have one name in different folders.
        stem = Path(path)
        yield f'{form}, {stem.parent.name}/{stem.name}', model.to(args.device)
    if args.checkpoints:
        return
    samples = config_images(cfg, 'train_dataloader', CALIBRATION)
    batches = to_batch(samples, len(samples), shape).split(args.batch_size)
    for form in FORMS:
        yield form, initialised(cfg, form, batches, args.device)


def main():
    args = parse_args()
    try:
        outputs.check_file('--out', args.out)
        outputs.check_file('--plot', args.plot)
        configs.check_positive(args, 'num_samples', 'batch_size')
        cfg = configs.read_config(args)
        print(keep_freed_memory())
        shape = configs.parse_shape(args.input_shape, cfg)
        configs.enter_scope(cfg)
        images = config_images(cfg, 'test_dataloader', args.num_samples)
        images = to_batch(images, len(images), shape)
        results = {}
        for name, model in networks(args, cfg, shape):
            results[name] = measure(model, images, args.batch_size, name)
    except (OSError, ValueError, RuntimeError, BrokenCheckpointError,
            UnsafeCheckpointError) as e:
        sys.exit(f'stability.py: {" ".join(str(e).split())}')
    print(f'\n{len(images)} images of {shape[0]}x{shape[1]}; % not finite + % beyond '
          f'{BEYOND} times the median of undisturbed images, features or outputs\n')
    print(table(results))
    if args.out:
        record = dict(vars(args), input_shape=shape, torch=torch.__version__,
                      networks=results)
        atomic_write(args.out, json.dumps(record, indent=1))
    if args.plot:
        plot(results, args.plot)


if __name__ == '__main__':
    main()

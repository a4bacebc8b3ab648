# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Visualise the attention of LightNL as maps over an image.

There is one map for each given position and layer. It shows the weight of every
position in the features that LightNL adds to the given position. Positive weights are
red, negative weights are blue. Only these rows of the affinity are computed, never the
whole affinity.
"""
import argparse
import sys
from pathlib import Path

import matplotlib
import mmcv
import torch
from mmengine.runner import load_checkpoint
from mmengine.structures import BaseDataElement

from autonl_mm.models.layers import LightNL, affinity_rows
from autonl_mm.runs import configs, outputs
from autonl_mm.runs.allocator import keep_freed_memory
from autonl_mm.runs.checkpoints import for_predictions

matplotlib.use('Agg')
import matplotlib.pyplot as plt


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('image', help='image file')
    configs.add_config_args(parser)
    parser.add_argument('checkpoint', help='checkpoint of the model')
    parser.add_argument(
        '--layer', nargs='+', required=True, metavar='NAME',
        help='LightNL layers by their names in the model, one row of the plot '
        'each; the message for a wrong name lists all names')
    parser.add_argument(
        '--points', nargs='+', required=True, metavar='X,Y',
        help='positions in pixels of the image, one column of the plot each')
    configs.add_input_shape(
        parser, help='the image is resized to it; default: not resized')
    parser.add_argument('--out', type=Path, default=Path('attention.png'),
                        help='file for the plot, default attention.png')
    return parser.parse_args()


def parse_point(text, height, width):
    """x and y in pixels of an image, from a text such as ``'120,80'``."""
    try:
        x, y = (float(part) for part in text.split(','))
    except ValueError:
        raise ValueError(f'--points has {text!r}, expected x,y in pixels, '
                         'such as 120,80') from None
    if not (0 <= x < width and 0 <= y < height):
        raise ValueError(f'--points has {text!r}, which is outside of the '
                         f'image of width {width} and height {height}')
    return x, y


def find_layers(model, names):
    """LightNL layers of a model by their names in ``model.named_modules()``."""
    layers = {name: module for name, module in model.named_modules()
              if isinstance(module, LightNL)}
    for name in names:
        if name not in layers:
            found = ', '.join(layers) or 'none'
            raise ValueError(f'--layer has {name!r}, which is not a LightNL '
                             f'layer of the model; its layers are: {found}')
    return {name: layers[name] for name in names}


@torch.no_grad()
def attention(model, layers, image, points):
    """Compute rows of the affinity.

    Args:
        model (nn.Module): Model of any codebase, in eval mode.
        layers (dict[str, LightNL]): LightNL layers of its backbone.
        image (np.ndarray): ``(H, W, 3)`` in BGR.
        points (list[tuple[float, float]]): x and y in pixels of ``image``.

    Returns:
        tuple[dict[str, Tensor], tuple[int, int]]: By layer one row per point,
        ``(P, h, w)``; and ``(H', W')``, the size of the padded image.
    """
    inputs = torch.from_numpy(image.transpose(2, 0, 1).copy())
    data = model.data_preprocessor(
        dict(inputs=[inputs], data_samples=[BaseDataElement()]), False)
    inputs = data['inputs']
    height, width = inputs.shape[2:]
    rows = {}

    def keep(name):

        def hook(layer, args):
            x, = args
            h, w = x.shape[2:]
            positions = torch.tensor([[int(y * h / height), int(x_ * w / width)]
                                      for x_, y in points])
            rows[name] = affinity_rows(x.float(), layer.nl_channels, layer.stride,
                                       positions, layer.normalize)[0]

        return hook

    handles = [layer.register_forward_pre_hook(keep(name))
               for name, layer in layers.items()]
    try:
        model.backbone(inputs)
    finally:
        for handle in handles:
            handle.remove()
    missing = set(layers) - set(rows)
    if missing:
        raise ValueError(f'the backbone does not run {", ".join(missing)}')
    return rows, (height, width)


def plot(image, rows, points, size, out):
    """Plot the maps ``(P, h, w)`` of each layer, which cover ``size`` pixels, over
    an image."""
    height, width = image.shape[:2]
    fig, axes = plt.subplots(
        len(rows), len(points) + 1, squeeze=False,
        figsize=(3 * (len(points) + 1), 3 * height / width * len(rows) + 0.6))
    for line, (name, maps) in zip(axes, rows.items()):
        for ax in line:
            ax.imshow(image[:, :, ::-1])
            ax.axis('off')
        line[0].set_title(f'{name}, {maps.shape[1]}x{maps.shape[2]}', fontsize=8)
        for i, (x, y) in enumerate(points):
            line[0].plot(x, y, 'o', markeredgecolor='black', color='yellow')
            line[0].annotate(str(i + 1), (x, y), xytext=(5, 5),
                             textcoords='offset points', color='yellow')
            limit = maps[i].abs().max().item() or 1.
            line[i + 1].imshow(
                maps[i].numpy(), cmap='RdBu_r', vmin=-limit, vmax=limit, alpha=0.65,
                extent=(-0.5, size[1] - 0.5, size[0] - 0.5, -0.5),
                interpolation='nearest')
            line[i + 1].plot(x, y, 'o', markeredgecolor='black', color='yellow')
            line[i + 1].set_title(f'{i + 1}: up to {limit:.2g}', fontsize=8)
            # cuts off the padding, which the maps cover too
            line[i + 1].set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    fig.tight_layout()
    outputs.save_figure(fig, out, dpi=110)
    plt.close(fig)


def main():
    args = parse_args()
    try:
        outputs.check_file('--out', args.out)
        for path in (args.image, args.config, args.checkpoint):
            if not Path(path).is_file():
                raise FileNotFoundError(f'{path!r} does not exist')
        image = mmcv.imread(args.image)
        if image is None:
            raise ValueError(f'{args.image} is not a readable image')
        points = [parse_point(p, *image.shape[:2]) for p in args.points]
        if args.input_shape:
            height, width = configs.parse_shape(args.input_shape)
            points = [(x * width / image.shape[1], y * height / image.shape[0])
                      for x, y in points]
            image = mmcv.imresize(image, (width, height))
        model = configs.build_model(configs.read_config(args))
        layers = find_layers(model, args.layer)
        with for_predictions(args.checkpoint):
            load_checkpoint(model, args.checkpoint, 'cpu')
        print(keep_freed_memory())
        rows, size = attention(model, layers, image, points)
    except (FileNotFoundError, ValueError, RuntimeError) as e:
        sys.exit(f'show_attention.py: {e}')
    plot(image, rows, points, size, args.out)
    print(args.out)


if __name__ == '__main__':
    main()

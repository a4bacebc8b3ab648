# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Print parameters and MACs of a config's model and of each of its parts.

mmengine's analyser counts the forward pass of one image: multiply-accumulates of
convolutions, linear layers, matrix products and pooling, as in ``autonl_mm/cost.py``.
It does not count normalisation, activation, interpolation and the operators of mmcv
(NMS, RoIAlign). Heads that are used only in training have parameters but no MACs. The
MACs of a second stage are for the proposals of an untrained first stage on a noise
image.
"""
import argparse
import sys
from functools import partial
from typing import Dict, Iterator, Optional, Tuple

import torch
from mmengine.analysis import FlopAnalyzer
from mmengine.model import ModuleList
from torch import nn

from autonl_mm.measure.counting import count_parameters
from autonl_mm.models import input_channels
from autonl_mm.runs import configs
from autonl_mm.runs.tables import markdown_table

Size = Tuple[int, int]


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    configs.add_config_args(parser)
    configs.add_input_shape(parser)
    return parser.parse_args()


def make_inputs(model: nn.Module, shape: Size, scope: Optional[str]
                ) -> Tuple[torch.Tensor, list]:
    """A noise image ``(1, C, H, W)`` after the model's preprocessor, which may pad;
    and the data sample from which detectors read its size."""
    torch.manual_seed(0)
    data = dict(inputs=[torch.randint(
        0, 256, (input_channels(model), *shape), dtype=torch.uint8)])
    if scope == 'mmdet':
        from mmdet.structures import DetDataSample
        data['data_samples'] = [DetDataSample(metainfo=dict(
            img_shape=shape, ori_shape=shape, scale_factor=(1., 1.)))]
    data = model.data_preprocessor(data)
    return data['inputs'], data.get('data_samples')


def count_parts(model: nn.Module, inputs: torch.Tensor, samples: list
                ) -> Dict[str, int]:
    """MACs by module name; ``''`` is the whole model."""
    model.forward = partial(model.forward, data_samples=samples)
    analyzer = FlopAnalyzer(model, inputs)
    # None has no effect: mmengine 0.10.7 then uses its own handle.
    for name in ('batch_norm', 'group_norm', 'layer_norm',
                 'upsample_nearest2d', 'upsample_bilinear2d'):
        analyzer.set_op_handle(f'aten::{name}', lambda inputs, outputs: 0)
    analyzer.unsupported_ops_warnings(False)
    analyzer.uncalled_modules_warnings(False)
    with torch.no_grad():
        return analyzer.by_module()


def parts(model: nn.Module, prefix: str = '') -> Iterator[Tuple[str, nn.Module]]:
    """Names and modules: each stage of the backbone, the neck, the heads."""
    for name, child in model.named_children():
        place = prefix + name
        if place == 'data_preprocessor':
            continue
        if name in ('backbone', 'roi_head'):  # also the base of a PluginBackbone
            yield from parts(child, f'{place}.')
        elif prefix and isinstance(child, (ModuleList, nn.ModuleList)):
            for i, layer in child.named_children():
                yield f'{place}.{i}', layer
        else:
            yield place, child


def table(model: nn.Module, macs: Dict[str, int]) -> str:
    """A Markdown table; the last row is the whole model."""
    rows = [(name, count_parameters(module), macs.get(name, 0))
            for name, module in parts(model)]
    rows = [row for row in rows if any(row[1:])]
    rows.append(('all', count_parameters(model), macs['']))
    return markdown_table(
        ['part', 'parameters', 'MACs, M'],
        [[name, f'{params:,}', f'{count / 1e6:,.2f}'] for name, params, count in rows])


def main():
    args = parse_args()
    try:
        cfg = configs.read_config(args)
        shape = configs.parse_shape(args.input_shape, cfg)
        model = configs.build_model(cfg)
    except (FileNotFoundError, ValueError) as e:
        sys.exit(f'get_flops.py: {e}')
    inputs, samples = make_inputs(model, shape, configs.scope_of(cfg))
    macs = count_parts(model, inputs, samples)
    height, width = inputs.shape[2:]
    print(f'{args.config}, one image of {height}x{width}\n')
    print(table(model, macs))


if __name__ == '__main__':
    main()

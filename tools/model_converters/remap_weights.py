# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Remap the weights of a trained network to another arch, for a classifier.

    python tools/model_converters/remap_weights.py package://tf_efficientnet_lite0 \
        autonl-s_lite0.pth --arch s

Prints for each block how much of the squared weights of the donor's convolutions it
kept. The checkpoint says which donor, checksum and image normalisation it is from.
"""
import argparse
import logging
import os.path as osp
import sys
from pathlib import Path

import torch
from mmengine.runner import Runner, save_checkpoint

from autonl_mm.arch import NORMALIZE, resolve_arch
from autonl_mm.converters import load_donor, remap
from autonl_mm.models import AutoNL
from autonl_mm.runs import configs, outputs
from autonl_mm.runs.checkpoints import BrokenCheckpointError, UnsafeCheckpointError
from autonl_mm.runs.digest import digest
from autonl_mm.runs.tables import markdown_table


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'source',
        help='trained network: timm://NAME, package://tf_efficientnet_lite0 (lite1, '
        'lite2), or a checkpoint of timm, mmpretrain or autonl_mm')
    parser.add_argument('out', help='checkpoint to write, .pth')
    parser.add_argument(
        '--arch', required=True,
        help="'s', 'l', a name of autonl_mm.list_models(), or a file in the notation")
    parser.add_argument(
        '--normalize', choices=list(NORMALIZE),
        help="divisor of LightNL's product in the arch; default: rms for names, else "
        'as the file says')
    parser.add_argument(
        '--donor', metavar='NAME',
        help="network in the file, if the file's name does not say it: timm's name, or "
        'the arch of an AutoNL')
    parser.add_argument(
        '--recalibrate', metavar='CONFIG',
        help='config of a model with the arch; BN statistics are measured again on its '
        'training data')
    return parser.parse_args(argv)


def recalibrate(state, config):
    """Measure BN statistics on the training data of a config.

    Args:
        state (dict[str, Tensor]): The backbone's weights; statistics are replaced.
        config (str): The config of a model with this backbone.
    """
    # imported here because only this needs mmpretrain
    from mmpretrain.engine.hooks.precise_bn_hook import update_bn_stats
    cfg = configs.read_config(argparse.Namespace(config=config, cfg_options={}))
    model = configs.build_model(cfg)
    model.backbone.load_state_dict(state, strict=False)
    loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
    update_bn_stats(model.train(), loader, logger='silent')
    state.update({k: v for k, v in model.backbone.state_dict().items()
                  if 'running_' in k})


def main(argv=None):
    args = parse_args(argv)
    try:
        outputs.check_file('out', args.out, ('.pth', ))
        if osp.exists(args.out) and osp.exists(args.source) and osp.samefile(
                args.out, args.source):
            raise ValueError(f'{args.out} is the donor: give another name')
        arch = resolve_arch(args.arch, args.normalize)
        donor = load_donor(args.source, args.donor)
        torch.manual_seed(0)  # of layers without a counterpart
        logging.disable(logging.INFO)
        backbone = AutoNL(  # a name sets BN's eps
            args.arch, out_indices=(-1, ), normalize=args.normalize)
        backbone.init_weights()
        remapped = remap(donor, arch, backbone.layers[0].bn.eps)
        state = {**backbone.state_dict(), **remapped.state}
        if args.recalibrate:
            recalibrate(state, args.recalibrate)
    except (OSError, ValueError, BrokenCheckpointError, UnsafeCheckpointError) as e:
        sys.exit(f'remap_weights.py: {e}')
    family = donor.family
    meta = dict(
        arch=arch.to_text(), donor=donor.source, donor_sha256=donor.sha256,
        donor_activation=family.act, mean=list(family.mean), std=list(family.std))
    state = {f'backbone.{k}': v for k, v in state.items()}
    state.update({f'head.fc.{k}': v for k, v in remapped.fc.items()})
    save_checkpoint(dict(meta=meta, state_dict=state), args.out)
    print(markdown_table(
        ['layer or block', 'from', 'weights kept'],
        [[row.name, row.source, f'{row.kept:.0%}'] for row in remapped.rows]))
    print(f'\n{args.out}: {remapped.summary()} of {args.source}, sha256 '
          f'{digest(Path(args.out))}. The donor has {family.act}'
          f'{", pads as TensorFlow" if family.same_padding else ""} and was trained on '
          f'images normalised by mean={list(family.mean)}, std={list(family.std)}: set '
          'these in data_preprocessor')


if __name__ == '__main__':
    main()

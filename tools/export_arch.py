# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Export the subnet that a search chose: notation, weights, config for retraining."""
import argparse
import copy
import os.path as osp
import sys

from mmengine.registry import MODELS
from mmengine.runner import save_checkpoint

import autonl_mm  # noqa: F401
from autonl_mm.nas import CostAwareModel, load_search
from autonl_mm.nas.search_configs import write_retrain_config
from autonl_mm.nas.supernet.export import subnet_text
from autonl_mm.runs import launch, outputs
from autonl_mm.runs.atomic_files import atomic_write
from autonl_mm.runs.checkpoints import BrokenCheckpointError, UnsafeCheckpointError
from autonl_mm.runs.configs import enter_scope
from autonl_mm.runs.dataset_configs import check_data
from autonl_mm.runs.scalars import format_metrics
from autonl_mm.runs.tables import markdown_table


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    launch.add_common_args(parser)
    parser.add_argument('checkpoint', help='checkpoint of the search')
    parser.add_argument('--out', required=True, help='notation file to write')
    parser.add_argument(
        '--weights', help='file to write with the inherited weights, .pth')
    parser.add_argument(
        '--config',
        dest='retrain_config',
        help="config for retraining to write; it inherits from the search config's "
        'retrain_base')
    parser.add_argument(
        '--eval',
        action='store_true',
        help='evaluate the supernet, the subnet, and the subnet with recalibrated BN')
    return parser.parse_args()


def evaluate(cfg, checkpoint, subnet):
    """Evaluate the supernet, the subnet, and the subnet with recalibrated BN.

    Args:
        cfg (Config): The search's config.
        checkpoint (str): The search's checkpoint.
        subnet (nn.Module): The exported task model with its weights. Its BN
            statistics are recalibrated.

    Returns:
        dict[str, dict]: Metrics by the name of the network.
    """
    # Imported here because only this needs mmpretrain. It works for all codebases.
    from mmpretrain.engine.hooks.precise_bn_hook import update_bn_stats
    cfg = cfg.copy()
    cfg.update(load_from=None, resume=False)  # what the search started from
    cfg.default_hooks = dict(checkpoint=None, logger=None)
    cfg.custom_hooks = []
    cfg.log_level = 'WARNING'
    runner = launch.build_runner(cfg)
    load_search(runner.model, checkpoint)
    subnet.to(next(runner.model.parameters()).device)
    results = {'supernet': runner.val()}
    runner.model.model = subnet
    results['exported'] = runner.val()
    subnet.train()
    loader = runner.build_dataloader(cfg.train_dataloader, seed=runner.seed)
    update_bn_stats(subnet, loader, logger='silent')
    results['exported, BN recalibrated'] = runner.val()
    return results


def main():
    args = parse_args()
    try:
        outputs.check_file('--out', args.out)
        outputs.check_file('--weights', args.weights, ('.pth', ))
        outputs.check_file('--config', args.retrain_config, ('.py', ))
        cfg = launch.load_config(args)
        if not osp.isfile(args.checkpoint):
            raise FileNotFoundError(
                f'checkpoint {args.checkpoint!r} does not exist')
        if args.retrain_config and not cfg.get('retrain_base'):
            raise ValueError(
                '--config needs retrain_base in the config of the search: the '
                'config for retraining')
        if args.eval:
            check_data(cfg, ['train_dataloader', 'val_dataloader'])
        enter_scope(cfg)
        model = cfg.model.copy()
        model.setdefault('data_preprocessor', cfg.get('data_preprocessor'))
        model = MODELS.build(model)
        if not isinstance(model, CostAwareModel):
            raise ValueError(f'the model of {args.config} is a '
                             f'{type(model).__name__}, expected the config of a '
                             'search, whose model is a CostAwareModel')
        load_search(model, args.checkpoint)
    except (OSError, ImportError, ValueError, BrokenCheckpointError,
            UnsafeCheckpointError) as e:
        sys.exit(f'export_arch.py: {e}')

    supernet = model.supernet
    arch = supernet.arch()
    text = subnet_text(arch, supernet.cfgs)
    atomic_write(args.out, text)
    with model.exported_as(supernet.active_subnet()):
        subnet = copy.deepcopy(model.model)

    params = sum(p.numel() for p in subnet.parameters())
    print(text, end='')
    print(f'{args.out}: {len(arch.blocks)} blocks, '
          f'{supernet.cost().item():,.6g} {supernet.cost_model.unit} at '
          f'{supernet.input_shape[0]}x{supernet.input_shape[1]}, '
          f'{params:,} parameters in the whole model')
    if args.weights:
        save_checkpoint(
            dict(meta=dict(), state_dict=subnet.state_dict()), args.weights)
        print(f'{args.weights}: weights inherited from the supernet')
    if args.retrain_config:
        write_retrain_config(args.retrain_config, cfg.retrain_base, arch, supernet.cfgs)
        print(f'{args.retrain_config}: retrain with tools/train.py '
              f'{args.retrain_config}')
    if args.eval:
        results = evaluate(cfg, args.checkpoint, subnet)
        print('\n\n' + markdown_table(['network', 'metrics'], [
            [name, format_metrics(metrics)] for name, metrics in results.items()]))


if __name__ == '__main__':
    main()

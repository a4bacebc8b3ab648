# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Losses of networks with the weights that they share in a supernet."""
from pathlib import Path
from typing import List, Sequence

from mmengine.config import Config
from tqdm import tqdm

from autonl_mm.cli import launch
from autonl_mm.nas import SearchHook, load_search, unwrap_model
from autonl_mm.nas.proxy_loss import ProxyLoss

from .random_networks import Choices


def supernet_losses(cfg: Config, checkpoint: str, networks: Sequence[Choices],
                    work_dir: Path) -> List[float]:
    """Losses by which a search compares networks, as it computes them.

    Args:
        cfg (Config): The config of the search. Its SearchHook says on how many
            training images.
        checkpoint (str): The checkpoint of the search.
        networks (Sequence[list[tuple[int, ...]]]): Choices of each network.
        work_dir (Path): For the log.

    Returns:
        list[float]: One loss for each network.

    Raises:
        BrokenCheckpointError, UnsafeCheckpointError, ValueError: If the checkpoint
            cannot be loaded or is of another search space.
    """
    cfg = cfg.copy()
    hooks = [h for h in cfg.custom_hooks if h['type'].endswith('SearchHook')]
    options = {k: v for k, v in (hooks[0] if hooks else {}).items() if k != 'type'}
    options.pop('priority', None)
    cfg.update(work_dir=str(work_dir), custom_hooks=[], log_level='WARNING')
    cfg.default_hooks = dict(checkpoint=None, logger=None)
    runner = launch.build_runner(cfg)
    model = unwrap_model(runner.model)
    load_search(model, checkpoint)
    model.train()
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    hook = SearchHook(**options)
    proxy = ProxyLoss(
        runner, model.model, model.network, hook.num_samples, hook.max_bytes)
    losses = []
    for choices in tqdm(networks, desc='networks of the supernet', leave=False):
        values, = proxy.losses([choices], 0, proxy.num_batches)
        losses.append(sum(values) / len(values))
    return losses

# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Losses of subnets with the shared weights of a supernet."""
from pathlib import Path
from typing import List, Optional, Sequence

from mmengine.config import Config
from tqdm import tqdm

from autonl_mm.nas.search_configs import open_search
from autonl_mm.nas.selection.evolution import mean_loss
from autonl_mm.nas.supernet.space import Subnet


def supernet_losses(cfg: Config, checkpoint: Optional[str], subnets: Sequence[Subnet],
                    work_dir: Path) -> List[float]:
    """Losses of subnets, computed as a search computes them for candidates.

    Args:
        cfg (Config): The config of the search; its hook decides the images.
        checkpoint (str | None): The checkpoint of the search; None for the weights
            with which it starts.
        subnets (Sequence[Subnet]): The subnets.
        work_dir (Path): Folder for the log.

    Returns:
        list[float]: The mean loss of each subnet.

    Raises:
        BrokenCheckpointError, UnsafeCheckpointError, ValueError: If the checkpoint
            cannot be loaded or is of another search space.
    """
    runner, model, selection = open_search(cfg, checkpoint, work_dir)
    proxy = selection.proxy_loss(runner, model)
    means = []
    for subnet in tqdm(subnets, desc='subnets', leave=False):
        values, = proxy.losses([subnet], 0, proxy.num_batches)
        means.append(mean_loss(values, proxy.images))
    return means

# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Finished searches, whose supernet compares networks."""
import os
from typing import Tuple

from mmengine.config import Config
from mmengine.runner import Runner

from autonl_mm.nas import SearchHook, load_search, unwrap_model

from . import launch


def search_options(cfg: Config) -> dict:
    """Options of the SearchHook of a search's config; empty if it has none.

    Args:
        cfg (Config): The config.
    """
    for hook in cfg.get('custom_hooks') or ():
        if str(hook['type']).split('.')[-1] == 'SearchHook':
            return {k: v for k, v in hook.items() if k not in ('type', 'priority')}
    return {}


def open_search(cfg: Config, checkpoint: str, work_dir: os.PathLike,
                **options) -> Tuple[Runner, SearchHook]:
    """Build a search's runner with the weights that it ended with.

    Args:
        cfg (Config): The config of the search.
        checkpoint (str): Its checkpoint.
        work_dir (str | Path): For the log.
        **options: Options of the SearchHook in place of the config's.

    Returns:
        tuple[Runner, SearchHook]: The runner, its model in training mode, and the
        hook, which has the model and the images that candidates are tried on.

    Raises:
        BrokenCheckpointError, UnsafeCheckpointError, ValueError: If the checkpoint
            cannot be loaded or is of another search space, or the config is not that
            of a search.
    """
    cfg = cfg.copy()
    hook = SearchHook(**{**search_options(cfg), **options})
    cfg.update(work_dir=str(work_dir), custom_hooks=[], log_level='WARNING')
    cfg.default_hooks = dict(checkpoint=None, logger=None)
    runner = launch.build_runner(cfg)
    hook.open(runner)
    load_search(unwrap_model(runner.model), checkpoint)
    runner.model.train()
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    return runner, hook

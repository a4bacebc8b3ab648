# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Finished searches: their supernet, and configs and weights of its subnets."""
import os
from pathlib import Path
from typing import Mapping, Optional, Tuple, Union

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.runner import Runner
from mmengine.runner.checkpoint import save_checkpoint

from autonl_mm.arch import ArchSpec
from autonl_mm.models.backbones.autonl import LAYER_CFGS, layer_cfgs
from autonl_mm.nas.selection.candidates import CandidateSelection
from autonl_mm.nas.selection.proxy_loss import FixedBatches, ProxyLoss
from autonl_mm.nas.supernet.space import Subnet
from autonl_mm.runs import launch
from autonl_mm.runs.atomic_files import atomic_write
from autonl_mm.runs.config_parts import type_name
from autonl_mm.runs.configs import enter_scope

from .supernet.export import changed_settings, subnet_text
from .supernet.supernet import AutoNLSuperNet
from .training.cost_aware_model import CostAwareModel, load_search, searched_model

HOOKS = ('GateSearchHook', 'SandwichSearchHook')


def selection_options(cfg: Config) -> dict:
    """Options of a search's hook for its :class:`CandidateSelection`; empty if the
    config has no such hook.

    Args:
        cfg (Config): The config.
    """
    for hook in cfg.get('custom_hooks') or ():
        if type_name(hook) in HOOKS:
            return {key: hook[key] for key in ('candidates', 'num_samples', 'held_out')
                    if key in hook}
    return {}


def open_search(cfg: Config, checkpoint: Optional[str], work_dir: os.PathLike,
                **options) -> Tuple[Runner, CostAwareModel, CandidateSelection]:
    """Build a search's runner with the weights of a checkpoint.

    Args:
        cfg (Config): The config of the search.
        checkpoint (str | None): Its checkpoint; None for the weights with which it
            starts.
        work_dir (str | Path): For the log.
        **options: Options of the CandidateSelection in place of the config's.

    Returns:
        tuple[Runner, CostAwareModel, CandidateSelection]: The runner, its model in
        training mode, and the selection with the images for candidates.

    Raises:
        BrokenCheckpointError, UnsafeCheckpointError, ValueError: If the checkpoint
            cannot be loaded or is of another search space, or the config is of no
            search.
    """
    cfg = cfg.copy()
    selection = CandidateSelection(**{**selection_options(cfg), **options})
    cfg.update(work_dir=str(work_dir), custom_hooks=[], log_level='WARNING')
    cfg.default_hooks = dict(checkpoint=None, logger=None)
    runner = launch.build_runner(cfg)
    model = searched_model(runner)
    selection.open(runner)
    if checkpoint is None:
        model.init_weights()
        runner.load_or_resume()  # a load_from
    else:
        load_search(model, checkpoint)
    runner.model.train()
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    return runner, model, selection


def write_retrain_config(path: Union[str, os.PathLike], base: str, arch: ArchSpec,
                         cfgs: Mapping[str, Optional[dict]]) -> None:
    """Write a config that inherits from a base config and sets the arch.

    mmengine lets no config inherit from a pure Python config by ``_base_``; of such a
    base the whole is written.

    Args:
        path (str | Path): The file to write.
        base (str): The base config.
        arch (ArchSpec): The arch.
        cfgs (Mapping[str, dict | None]): ``cfgs`` of the supernet. Activation, padding,
            BN's eps and LightNL's ``normalize`` are set too where the base config has
            others.
    """
    backbone = Config.fromfile(base).model.backbone
    others = layer_cfgs(arch, *(backbone.get(key) and dict(backbone[key])
                                for key in LAYER_CFGS))
    changed = changed_settings(cfgs, others)
    if backbone.get('normalize') not in (None, arch.normalize):
        changed['normalize'] = None  # the notation says it
    lines = arch.to_text().splitlines()
    if Config._is_lazy_import(base):
        cfg = Config.fromfile(base)
        cfg.model.backbone.update(changed, arch=lines)
        text = cfg.pretty_text
    else:
        settings = ''
        for key, value in changed.items():
            if value and backbone.get(key):
                value = dict(value, _delete_=True)
            settings += f'    {key}={value!r},\n'
        base = os.path.relpath(base, Path(path).parent)
        lines = ''.join(f'        {line!r},\n' for line in lines)
        text = (f'_base_ = {base!r}\n\n'
                f'model = dict(backbone=dict(\n{settings}    arch=[\n{lines}    ]))\n')
    atomic_write(path, text)
    Config.fromfile(path)  # raises if it cannot be read


def write_subnet(folder: Path, cfg: Config, model: CostAwareModel, proxy: ProxyLoss,
                 batches: FixedBatches, subnet: Subnet) -> None:
    """Write a subnet: ``arch.txt``, ``subnet.pth`` with the inherited weights, and
    ``retrain.py`` if the config of the search has a ``retrain_base``.

    Args:
        folder (Path): The folder to write to.
        cfg (Config): The config of the search.
        model (CostAwareModel): The model of the search.
        proxy (ProxyLoss): The search's.
        batches (FixedBatches): The images on which BN's statistics are measured.
        subnet (Subnet): The subnet.
    """
    arch = model.supernet.space.arch(subnet)
    with model.exported_as(subnet):
        proxy.recalibrate(batches)
        state = {name: value.detach().cpu().clone()
                 for name, value in model.model.state_dict().items()}
    if not is_main_process():
        return
    folder.mkdir(parents=True, exist_ok=True)
    cfgs = model.supernet.cfgs
    atomic_write(folder / 'arch.txt', subnet_text(arch, cfgs))
    save_checkpoint(dict(meta=dict(), state_dict=state), str(folder / 'subnet.pth'))
    if cfg.get('retrain_base'):
        write_retrain_config(folder / 'retrain.py', cfg.retrain_base, arch, cfgs)


def build_supernet(cfg: Config) -> AutoNLSuperNet:
    """Build only the supernet of a search's config.

    Args:
        cfg (Config): The config.

    Returns:
        AutoNLSuperNet: The supernet.

    Raises:
        ValueError: If it is not the config of a search.
    """
    enter_scope(cfg)
    backbone = dict(cfg.model.get('model', {}).get('backbone', {}))
    if type_name(backbone) != 'AutoNLSuperNet':
        raise ValueError(f'{cfg.filename} is not the config of a search: its '
                         'model has no AutoNLSuperNet')
    backbone.pop('type')
    return AutoNLSuperNet(**backbone)



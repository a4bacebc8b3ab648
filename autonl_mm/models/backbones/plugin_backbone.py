# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Plug-in layers at named places of any backbone."""
import re
from collections import defaultdict
from typing import Dict, List, Optional, Sequence, Tuple, Union

import torch
import torch.nn as nn
from mmcv.cnn import build_plugin_layer
from mmengine.model import BaseModule, ModuleDict, Sequential
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from torch import Tensor

from autonl_mm.deploy import DeployMixin
from autonl_mm.registry import MODELS

# Two images, neither of them square: channels are what stays the same from
# one to the other, and heights and widths cannot be taken for each other.
PROBE_SIZES = ((64, 96), (96, 160))
# What torch puts before the base's names, and checkpoints do not have.
BASE = 'backbone.'
PLUGINS = 'plugins.'


@MODELS.register_module()
class PluginBackbone(DeployMixin, BaseModule):
    r"""Any backbone, with plug-in layers after named submodules of it.

    The base network is built as it is and keeps its names: its checkpoints
    load unchanged, whether into this module or by an ``init_cfg`` of the
    base. Each plug-in takes the output of the submodule that it is named
    after, and what it makes of it goes on in that output's stead. Plug-ins
    are found in the state dict as
    ``plugins.<place, '-' for '.'>.<abbreviation of the layer>``.

    The channels of each place are found with two small images that pass
    through the base while it is built.

    Args:
        backbone (dict): Config of the base: a backbone of mmpretrain, mmdet
            or mmseg, or of timm by mmpretrain's or mmseg's ``TIMMBackbone``.
        plugins (Sequence[dict]): ``dict(cfg=..., target=...)`` each. ``cfg``
            is a layer that mmcv's ``build_plugin_layer`` can build, such as
            ``dict(type='LightNL', channel_ratio=0.25)``, without
            ``in_channels``; where two of one type go to one place, a
            ``postfix`` in it tells them apart. ``target`` is a regular
            expression; the layer goes after every submodule of the base
            whose whole name matches it. Defaults to none.
        norm_eval (bool): Whether the plug-ins' BN stays in eval mode in
            training, for plug-ins whose statistics come from a checkpoint.
            ``norm_eval`` and ``frozen_stages`` of the base hold for the base
            alone: new layers have no statistics yet, and are there to be
            trained. Defaults to False.
        init_cfg (dict | list[dict], optional): Initialisation of the whole.
            Defaults to None.

    Raises:
        ValueError: If an entry is malformed or its layer changes the shape of
            a map; if a target matches nothing, a submodule whose output is
            not one map ``(N, C, H, W)``, or one that the base calls more than
            once; the last three list what could match.

    Shape:
        Those of the base.

    Examples:
        >>> dict(
        ...     type='autonl_mm.PluginBackbone',
        ...     backbone=dict(type='mmpretrain.MobileNetV2'),
        ...     plugins=[
        ...         dict(
        ...             cfg=dict(type='autonl_mm.LightNL', stride=2),
        ...             target=r'layer[345]\.\d+\.conv')
        ...     ])
    """

    def __init__(self,
                 backbone: dict,
                 plugins: Sequence[dict] = (),
                 norm_eval: bool = False,
                 init_cfg: Union[dict, List[dict], None] = None):
        super().__init__(init_cfg=init_cfg)
        self.norm_eval = norm_eval
        self.backbone = MODELS.build(backbone)
        self.plugins = ModuleDict()
        if plugins:
            channels, others = map_channels(self.backbone)
        for entry in plugins:
            cfg, target = _check_entry(entry)
            for place in _places(target, channels, others, self.backbone):
                self._insert(cfg, place, channels[place])
        self._register_state_dict_hook(_hide_base)
        self._register_load_state_dict_pre_hook(_show_base)

    def _insert(self, cfg: dict, place: str, channels: int) -> None:
        name, layer = _build_layer(cfg, place, channels)
        key = place.replace('.', '-')
        if key not in self.plugins:
            self.plugins[key] = PlacedPlugins()
            # First of all hooks, so that others see what the base will see.
            self.backbone.get_submodule(place).register_forward_hook(
                self.plugins[key].after, prepend=True)
        if name in self.plugins[key]._modules:
            raise ValueError(
                f'plugins of PluginBackbone put two layers {name!r} after '
                f'{place!r}: give one of them another name by a postfix, '
                f"cfg=dict(type={cfg['type']!r}, postfix='_2', ...), or leave "
                'it out')
        # mmcv's layers initialise themselves when they are built, and
        # NonLocal2d with sub_sample cannot do it twice.
        layer.is_init = not isinstance(layer, BaseModule)
        self.plugins[key].add_module(name, layer)

    def train(self, mode: bool = True) -> 'PluginBackbone':
        """As ``nn.Module.train``; the base does with it what it is set to."""
        super().train(mode)
        if mode and self.norm_eval:
            for module in self.plugins.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        """``(N, in_channels, H, W)`` to what the base returns."""
        return self.backbone(x)


class PlacedPlugins(Sequential):
    """The plug-ins of one place, one after the other.

    Its method is the hook, and not a function that knows the layers: copies
    and pickles of the network then have hooks that call their own layers.
    """

    def after(self, module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        """Forward hook of the submodule that the plug-ins come after."""
        return self(output)


def map_channels(
        backbone: nn.Module) -> Tuple[Dict[str, int], Dict[str, str]]:
    """Find the submodules of a network after which a layer can be put.

    Args:
        backbone (nn.Module): The network. Two small images pass through it
            in eval mode; it is left as it was.

    Returns:
        tuple: From the names of submodules that are called once and return
        one map ``(N, C, H, W)`` to their C; from the names of all others to
        the reason why not.

    Raises:
        ValueError: If the network does not run on the images.
    """
    names = {module: name for name, module in backbone.named_modules()}
    modes = {module: module.training for module in names}
    conv = next((m for m in names if isinstance(m, nn.Conv2d)), None)
    param = next(backbone.parameters(), torch.zeros(()))
    outputs = []

    def record(module, args, output):
        outputs[-1][names[module]].append(
            output.shape if isinstance(output, Tensor) else None)

    backbone.eval()
    handles = [m.register_forward_hook(record) for m in names]
    try:
        for size in PROBE_SIZES:
            outputs.append(defaultdict(list))
            image = param.new_zeros(1, conv.in_channels if conv else 3,
                                      *size)
            with torch.no_grad():
                backbone(image)
    except Exception as e:
        raise ValueError(
            f'{type(backbone).__name__} does not run on an image of '
            f'{size[0]}x{size[1]}, with which PluginBackbone finds its maps; '
            'backbones whose features are not maps, or maps of one size '
            f'only, take no plug-ins. {type(e).__name__}: {e}') from e
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode

    channels, others = {}, {}
    for name in filter(None, names.values()):
        shapes = [output[name] for output in outputs]
        if not shapes[0]:
            others[name] = 'is not called'
        elif len(shapes[0]) > 1:
            others[name] = f'is called {len(shapes[0])} times'
        elif not _is_map(*(shape[0] for shape in shapes)):
            shape = shapes[0][0]
            others[name] = ('returns ' + (
                f'{tuple(shape)} for an image of {PROBE_SIZES[0][0]}x'
                f'{PROBE_SIZES[0][1]}' if shape else 'more than one tensor'))
        else:
            channels[name] = shapes[0][0][1]
    return channels, others


def _is_map(first: Optional[torch.Size], second: Optional[torch.Size]) -> bool:
    """Whether these shapes of one output, of the two images, are maps'.

    Channels last, tokens and attention weights are not.
    """
    return all(
        shape is not None and len(shape) == 4 and shape[0] == 1 and
        (shape[2] < shape[3] or shape[2] == shape[3] == 1)
        for shape in (first, second)) and first[1] == second[1]


def _build_layer(cfg: dict, place: str,
                 channels: int) -> Tuple[str, nn.Module]:
    """A layer for maps of so many channels, and its name."""
    options = dict(cfg)
    try:
        name, layer = build_plugin_layer(
            options, options.pop('postfix', ''), in_channels=channels)
        x = next(layer.parameters(), torch.zeros(())).new_zeros(
            1, channels, 6, 9)
        layer.eval()
        with torch.no_grad():
            out = layer(x)
        layer.train()
    except (KeyError, TypeError, ValueError, RuntimeError) as e:
        raise ValueError(f'cfg of a plug-in, {cfg}, makes no layer for the '
                         f'{channels} channels of {place!r}: {e}') from e
    if getattr(out, 'shape', None) != x.shape:
        raise ValueError(
            f'cfg of a plug-in, {cfg}, makes a layer that does not return '
            f'what {place!r} does: {tuple(x.shape)} went in and '
            f'{tuple(out.shape) if isinstance(out, Tensor) else type(out)} '
            'came out')
    return name, layer


def _check_entry(entry: dict) -> Tuple[dict, 're.Pattern']:
    """Layer and target of an entry of ``plugins``."""
    if not isinstance(entry, dict) or set(entry) != {'cfg', 'target'}:
        raise ValueError(
            f'plugins of PluginBackbone has {entry!r}, expected '
            "dict(cfg=dict(type='LightNL', ...), target=<regular expression "
            'on names of submodules>)')
    cfg, target = entry['cfg'], entry['target']
    if not isinstance(cfg, dict) or 'type' not in cfg:
        raise ValueError(f'cfg of a plug-in is {cfg!r}, expected a layer '
                         "such as dict(type='LightNL', channel_ratio=0.25)")
    if 'in_channels' in cfg:
        raise ValueError(f'cfg of a plug-in has in_channels, {cfg!r}; leave '
                         'it out, PluginBackbone finds it for every place')
    try:
        return cfg, re.compile(target)
    except (re.error, TypeError) as e:
        raise ValueError(f'target of a plug-in is {target!r}, expected a '
                         f'regular expression: {e}') from e


def _places(target: 're.Pattern', channels: Dict[str, int],
            others: Dict[str, str], backbone: nn.Module) -> List[str]:
    """Names that match a target, each of them a place for a layer."""
    wrong = [f'{name!r} {reason}' for name, reason in others.items()
             if target.fullmatch(name)]
    places = [name for name in channels if target.fullmatch(name)]
    if places and not wrong:
        return places
    kind = type(backbone).__name__
    could = '\n'.join(f'  {name} ({count} channels)'
                      for name, count in channels.items())
    could = (f'What could match:\n{could}' if could else
             f'No submodule of {kind} returns a map.')
    if wrong:
        raise ValueError(
            f'target {target.pattern!r} of a plug-in matches submodules of '
            f'{kind} that are no place for one, which are called once and '
            f'return one map (N, C, H, W): {"; ".join(wrong)}. {could}')
    raise ValueError(f'target {target.pattern!r} of a plug-in matches no '
                     f'whole name of a submodule of {kind}. {could}')


def _hide_base(module: nn.Module, state_dict: dict, prefix: str,
               local_metadata: dict) -> None:
    """State dict hook: the base's tensors under the names it gave them."""
    _rename(state_dict, prefix + BASE, prefix)


def _show_base(state_dict: dict, prefix: str, *args) -> None:
    """Load hook: the reverse."""
    _rename(state_dict, prefix, prefix + BASE, prefix + PLUGINS)


def _rename(state_dict: dict,
            old: str,
            new: str,
            but: Optional[str] = None) -> None:
    """Exchange a prefix of keys; ``but`` starts keys that stay."""
    for key in list(state_dict):
        if key.startswith(old) and not (but and key.startswith(but)):
            state_dict[new + key[len(old):]] = state_dict.pop(key)

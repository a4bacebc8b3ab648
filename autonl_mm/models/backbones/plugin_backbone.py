# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Plug-in layers after named submodules of any backbone."""
import re
from collections import defaultdict
from typing import Dict, List, Optional, Sequence, Tuple, Union

import torch
import torch.nn as nn
from mmcv.cnn import build_plugin_layer
from mmengine.model import BaseModule, ModuleDict, Sequential
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from torch import Tensor

from autonl_mm.fold import DeployMixin
from autonl_mm.registry import MODELS

# Sizes of two test images. Neither is square, so that heights and widths differ;
# only the number of channels is equal for both images.
PROBE_SIZES = ((64, 96), (96, 160))
# Prefix of the base's parameters in this module; checkpoints do not have it.
BASE = 'backbone.'
PLUGINS = 'plugins.'


@MODELS.register_module()
class PluginBackbone(DeployMixin, BaseModule):
    r"""Any backbone, with plug-in layers after named submodules of it.

    The base network is built as it is and keeps its names: its checkpoints
    load unchanged, both into this module and through an ``init_cfg`` of the
    base. Each plug-in takes the output of one submodule, its place, and the
    plug-in's result replaces that output. In the state dict a plug-in is
    ``plugins.<place>.<abbreviation of the layer>``, with ``-`` for each ``.``
    in the name of the place.

    To find the number of channels at each place, two small images are passed
    through the base when the module is built.

    Args:
        backbone (dict): Config of the base: a backbone of mmpretrain, mmdet
            or mmseg, or one of timm through the ``TIMMBackbone`` of
            mmpretrain or mmseg.
        plugins (Sequence[dict]): Each is ``dict(cfg=..., target=...)``.
            ``cfg`` is a layer that mmcv's ``build_plugin_layer`` can build,
            such as ``dict(type='LightNL', channel_ratio=0.25)``, without
            ``in_channels``; two layers of one type at one place need
            different values of ``postfix`` in it. ``target`` is a regular
            expression; the layer is put after every submodule of the base
            whose whole name matches it. Defaults to ``()``.
        norm_eval (bool): Whether the plug-ins' BN stays in eval mode during
            training, for plug-ins whose statistics come from a checkpoint.
            ``norm_eval`` and ``frozen_stages`` of the base affect the base
            only: new plug-ins have no statistics yet and must be trained.
            Defaults to False.
        init_cfg (dict | list[dict], optional): Initialisation of base and
            plug-ins. Defaults to None.

    Raises:
        ValueError: If an entry is malformed or its layer changes the shape of
            a feature map. Also if a target matches no submodule, one whose
            output is not a single feature map ``(N, C, H, W)``, or one that
            the base calls more than once; the message then lists the names
            that could match.

    Shape:
        As for the base.

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
        if isinstance(self.backbone, PluginBackbone):
            # Checkpoints of the base have no sign of the outer plug-ins.
            raise ValueError('the backbone of a PluginBackbone is another '
                             'PluginBackbone: put all plug-ins into one list')
        self.plugins = ModuleDict()
        if plugins:
            channels, others = find_channels(self.backbone)
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
            # Before all other hooks, so that those get the plug-in's result,
            # as the rest of the base does.
            self.backbone.get_submodule(place).register_forward_hook(
                self.plugins[key].after, prepend=True)
        if name in self.plugins[key]._modules:
            raise ValueError(
                f'plugins of PluginBackbone put two layers {name!r} after '
                f'{place!r}: give one of them another name with a postfix, '
                f"cfg=dict(type={cfg['type']!r}, postfix='_2', ...), or leave "
                'it out')
        # mmcv's layers are initialised when they are built, and NonLocal2d
        # with sub_sample fails if it is initialised again.
        layer.is_init = not isinstance(layer, BaseModule)
        self.plugins[key].add_module(name, layer)

    def train(self, mode: bool = True) -> 'PluginBackbone':
        """As ``nn.Module.train``; the base applies its own settings."""
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

    The hook is a method of this module, not a closure over the layers: the
    hooks of copied or unpickled networks then call their own layers.
    """

    def after(self, module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        """Forward hook of the submodule that the plug-ins come after."""
        return self(output)


def find_channels(
        backbone: nn.Module) -> Tuple[Dict[str, int], Dict[str, str]]:
    """Find the submodules of a network after which a layer can be put.

    Args:
        backbone (nn.Module): The network. Two small images pass through it
            in eval mode; it is left as it was.

    Returns:
        tuple[dict, dict]: Number of channels by name, for submodules that
        are called once and return one feature map ``(N, C, H, W)``; and for
        all other submodules, by name, the reason why they are not suitable.

    Raises:
        ValueError: If the network does not run on images of these sizes.
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
            image = param.new_zeros(1, conv.in_channels if conv else 3, *size)
            with torch.no_grad():
                backbone(image)
    except Exception as e:
        raise ValueError(
            f'{type(backbone).__name__} does not run on an image of '
            f'{size[0]}x{size[1]}, with which PluginBackbone finds the '
            'feature maps; a backbone without feature maps, or with a fixed '
            f'input size, takes no plug-ins. {type(e).__name__}: {e}') from e
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
        elif not _is_feature_map(*(shape[0] for shape in shapes)):
            shape = shapes[0][0]
            others[name] = ('returns ' + (
                f'{tuple(shape)} for an image of {PROBE_SIZES[0][0]}x'
                f'{PROBE_SIZES[0][1]}' if shape else 'more than one tensor'))
        else:
            channels[name] = shapes[0][0][1]
    return channels, others


def _is_feature_map(first: Optional[torch.Size],
                    second: Optional[torch.Size]) -> bool:
    """Whether an output with these shapes, one per image, is a feature map.

    Tokens, attention weights and outputs with channels last are not.
    """
    return all(
        shape is not None and len(shape) == 4 and shape[0] == 1 and
        (shape[2] < shape[3] or shape[2] == shape[3] == 1)
        for shape in (first, second)) and first[1] == second[1]


def _build_layer(cfg: dict, place: str,
                 channels: int) -> Tuple[str, nn.Module]:
    """Build a layer for feature maps with ``channels`` channels.

    Returns:
        tuple[str, nn.Module]: Its name and the layer.
    """
    options = dict(cfg)
    try:
        name, layer = build_plugin_layer(
            options, options.pop('postfix', ''), in_channels=channels)
        x = next(layer.parameters(), torch.zeros(())).new_zeros(1, channels, 6, 9)
        layer.eval()
        with torch.no_grad():
            out = layer(x)
        layer.train()
    except (KeyError, TypeError, ValueError, RuntimeError) as e:
        raise ValueError(f'cfg of a plug-in, {cfg}, does not build a layer for '
                         f'the {channels} channels of {place!r}: {e}') from e
    if getattr(out, 'shape', None) != x.shape:
        raise ValueError(
            f'cfg of a plug-in, {cfg}, builds a layer that does not keep the '
            f'shape of the output of {place!r}: {tuple(x.shape)} went in and '
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
    """Names of the submodules that match a target, all of them suitable."""
    wrong = [f'{name!r} {reason}' for name, reason in others.items()
             if target.fullmatch(name)]
    places = [name for name in channels if target.fullmatch(name)]
    if places and not wrong:
        return places
    kind = type(backbone).__name__
    could = '\n'.join(f'  {name} ({count} channels)'
                      for name, count in channels.items())
    could = (f'What could match:\n{could}' if could else
             f'No submodule of {kind} returns a feature map.')
    if wrong:
        raise ValueError(
            f'target {target.pattern!r} of a plug-in matches submodules of '
            f'{kind} that are not suitable, expected submodules that are '
            'called once and return one feature map (N, C, H, W): '
            f'{"; ".join(wrong)}. {could}')
    raise ValueError(f'target {target.pattern!r} of a plug-in matches the '
                     f'whole name of no submodule of {kind}. {could}')


def _hide_base(module: nn.Module, state_dict: dict, prefix: str,
               local_metadata: dict) -> None:
    """State dict hook: gives the base's tensors the names that it uses."""
    _rename(state_dict, prefix + BASE, prefix)


def _show_base(state_dict: dict, prefix: str, *args) -> None:
    """Hook before loading: the reverse of :func:`_hide_base`."""
    _rename(state_dict, prefix, prefix + BASE, prefix + PLUGINS)


def _rename(state_dict: dict,
            old: str,
            new: str,
            but: Optional[str] = None) -> None:
    """Replace a prefix of keys; keys that start with ``but`` stay."""
    for key in list(state_dict):
        if key.startswith(old) and not (but and key.startswith(but)):
            state_dict[new + key[len(old):]] = state_dict.pop(key)

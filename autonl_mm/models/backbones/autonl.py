# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""AutoNL, the backbone that an ArchSpec describes."""
import re
from os import PathLike
from typing import Dict, List, Optional, Sequence, Tuple, Union

from mmcv.cnn import ConvModule
from mmengine.model import BaseModule, ModuleList, Sequential
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from torch import Tensor

from autonl_mm.arch import ArchSpec, BlockSpec, resolve_arch
from autonl_mm.fold import DeployMixin
from autonl_mm.named_networks import NAMED_NETWORKS
from autonl_mm.registry import MODELS, WEIGHT_INITIALIZERS
from autonl_mm.runs.config_parts import type_name

from ..layers import MBConv
from ..layers.mbconv import fused_act_cfg

# The arguments of AutoNL that say how its layers are built
LAYER_CFGS = ('conv_cfg', 'norm_cfg', 'act_cfg', 'se_act_cfg')
INIT_CFG = [
    dict(type='Kaiming', layer='Conv2d'),
    dict(type='Constant', layer=['_BatchNorm', 'GroupNorm'], val=1)
]


def layer_cfgs(arch: Union[str, PathLike, Sequence[str], ArchSpec],
               conv_cfg: Optional[dict] = None,
               norm_cfg: Optional[dict] = None,
               act_cfg: Optional[dict] = None,
               se_act_cfg: Optional[dict] = None) -> Dict[str, Optional[dict]]:
    """Settings of AutoNL's layers: arguments, else defaults of the named network.

    Args:
        arch (str | PathLike | Sequence[str] | ArchSpec): As for :class:`AutoNL`, as
            are all other arguments.

    Returns:
        dict[str, dict | None]: One for each name of :data:`LAYER_CFGS`.
    """
    named = NAMED_NETWORKS.get(arch) if isinstance(arch, str) else None
    if norm_cfg is None:
        norm_cfg = dict(
            type='BN', momentum=0.01, eps=named.bn_eps if named else 1e-3)
    elif named and 'eps' not in norm_cfg and re.search('BN|BatchNorm',
                                                       type_name(norm_cfg)):
        norm_cfg = dict(norm_cfg, eps=named.bn_eps)
    if named:
        conv_cfg = conv_cfg or named.conv_cfg
    default = named.act_cfg if named else dict(type='Swish')
    return dict(conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg or dict(default),
                se_act_cfg=se_act_cfg)


@MODELS.register_module()
class AutoNL(DeployMixin, BaseModule):
    """AutoNL backbone.

    `Neural Architecture Search for Lightweight Non-Local Networks
    <https://arxiv.org/abs/2004.01961>`_, and any other network of inverted
    residual blocks that the text notation can describe.

    Args:
        arch (str | PathLike | Sequence[str] | ArchSpec): ``'s'`` (AutoNL-S),
            ``'l'`` (AutoNL-L), the name of a network of
            :func:`autonl_mm.list_models`, the path of a notation file, a list of
            block lines or an ArchSpec. Only a name sets activation, padding and
            BN's eps, and only where the arguments below do not. Defaults to ``'s'``.
        out_indices (Sequence[int]): Layers whose outputs are returned. For
            an arch of 7 stages, 0 is the stem, 1 to 7 are the stages and 8
            is the head convolution; negative indices count from the head.
            Layers after the largest index are not built. Defaults to
            ``(8, )``.
        output_stride (int): 32, or 16 or 8 for dense prediction: the later
            strides are replaced by dilation, and pretrained weights stay
            valid. Defaults to 32.
        frozen_stages (int): Layers up to this index are frozen: no gradients,
            BN in eval mode; -1 for none. Defaults to -1.
        norm_eval (bool): Whether all BN stay in eval mode during training,
            with fixed statistics. Defaults to False.
        with_cp (bool): Whether to recompute activations in the backward pass
            to save memory. Defaults to False.
        in_channels (int): Channels of the input. Defaults to 3.
        conv_cfg (dict, optional): Convolution type;
            ``dict(type='Conv2dAdaptivePadding')`` pads as TensorFlow does.
            Defaults to None, what the arch's name sets, else torch's padding
            (``dict(type='Conv2d')``).
        norm_cfg (dict, optional): Normalisation. BN without eps gets what the name of
            a network sets. Defaults to None,
            ``dict(type='BN', momentum=0.01, eps=1e-3)`` with the eps that the name
            sets.
        act_cfg (dict, optional): Activation. Defaults to None, what the arch's name
            sets, else ``dict(type='Swish')``.
        se_act_cfg (dict, optional): Inner activation of squeeze-excite. Defaults to
            None, the activation of all other layers.
        normalize (str, optional): Divisor of LightNL's product: ``'rms'``, the
            root mean square of its product, or ``'size'``, the size of the feature
            map, as in the paper; see :func:`autonl_mm.models.light_nl`. Defaults to
            None: ``'rms'`` for ``'s'`` and ``'l'``, what an ArchSpec says, and for
            notation ``'size'`` unless it has a line ``scale-rms``.
        init_cfg (dict | list[dict], optional): Initialisation;
            ``dict(type='autonl_mm.Remap', checkpoint=...)`` takes the weights of
            another trained network, see
            :class:`~autonl_mm.converters.remap_init.Remap`. Unless it
            loads a checkpoint, depthwise convolutions are initialised as in
            the authors' releases. Defaults to Kaiming for ``Conv2d`` and 1
            for the weights of normalisation layers.

    Attributes:
        out_channels (tuple[int, ...]): Channels of the outputs.
        out_strides (tuple[int, ...]): Strides of the outputs.
        cfgs (dict): The settings of its layers, by the names of :data:`LAYER_CFGS`.

    Raises:
        ValueError: If an argument is out of range; names it.

    Shape:
        ``(N, in_channels, H, W)`` in; out a tuple with one feature map
        ``(N, out_channels[i], ceil(H/out_strides[i]), ceil(W/out_strides[i]))``
        per index.
    """

    # Subnets of a supernet take the first channels
    sort_remapped_channels = False

    def __init__(self,
                 arch: Union[str, PathLike, Sequence[str], ArchSpec] = 's',
                 out_indices: Sequence[int] = (8, ),
                 output_stride: int = 32,
                 frozen_stages: int = -1,
                 norm_eval: bool = False,
                 with_cp: bool = False,
                 in_channels: int = 3,
                 conv_cfg: Optional[dict] = None,
                 norm_cfg: Optional[dict] = None,
                 act_cfg: Optional[dict] = None,
                 se_act_cfg: Optional[dict] = None,
                 normalize: Optional[str] = None,
                 init_cfg: Union[dict, List[dict], None] = INIT_CFG):
        super().__init__(init_cfg=init_cfg)
        self.cfgs = layer_cfgs(arch, conv_cfg, norm_cfg, act_cfg, se_act_cfg)
        arch = self._arch = resolve_arch(arch, normalize)
        stages = arch.stages
        self.out_indices = self._check_out_indices(out_indices, len(stages))
        last = max(self.out_indices)
        placements = iter(arch.placements(output_stride))
        if frozen_stages not in range(-1, last + 1):
            raise ValueError(
                f'frozen_stages is {frozen_stages}, expected -1 for none or '
                f'an index from 0 to {last}, the last layer that is built for '
                f'out_indices {tuple(out_indices)}')
        self.output_stride = output_stride
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.in_channels = in_channels

        conv_module_cfg = dict(
            conv_cfg=self.cfgs['conv_cfg'], norm_cfg=self.cfgs['norm_cfg'],
            act_cfg=fused_act_cfg(self.cfgs['act_cfg']))
        channels = [arch.stem_channels]
        strides = [2]
        self.layers = ModuleList([
            ConvModule(
                in_channels,
                arch.stem_channels,
                3,
                stride=2,
                padding=1,
                **conv_module_cfg)
        ])
        stride = 2
        for stage in stages[:last]:
            blocks = []
            for spec, placement in zip(stage, placements):
                stride *= placement.stride
                blocks.append(
                    self._build_block(
                        spec,
                        with_cp=with_cp,
                        **placement._asdict(),
                        **self.cfgs))
            self.layers.append(Sequential(*blocks))
            channels.append(stage[-1].out_channels)
            strides.append(stride)
        if last > len(stages):
            self.layers.append(
                ConvModule(channels[-1], arch.head_channels, 1, **conv_module_cfg))
            channels.append(arch.head_channels)
            strides.append(stride)
        self.out_channels = tuple(channels[i] for i in self.out_indices)
        self.out_strides = tuple(strides[i] for i in self.out_indices)
        self._full_stride = strides[-1]
        self._freeze_stages()

    def arch(self) -> ArchSpec:
        """The spec of the whole network, whichever layers are built."""
        return self._arch

    def init_weights(self) -> None:
        """As mmengine's; weights of another network, ``Remap``, come last."""
        cfgs = self.init_cfg if isinstance(self.init_cfg, list) else [self.init_cfg]
        remaps = [c for c in cfgs if c and type_name(c) == 'Remap']
        if not remaps or self.is_init:
            return super().init_weights()
        given, self.init_cfg = self.init_cfg, [
            c for c in cfgs if c not in remaps] or INIT_CFG
        super().init_weights()
        self.init_cfg = given
        for cfg in remaps:
            WEIGHT_INITIALIZERS.build(cfg).fill(
                self, self._arch, self.sort_remapped_channels)

    def _build_block(self, spec: BlockSpec, **kwargs) -> MBConv:
        return MBConv(spec, **kwargs)

    @staticmethod
    def _check_out_indices(out_indices: Sequence[int],
                           num_stages: int) -> Tuple[int, ...]:
        if isinstance(out_indices, int):
            out_indices = (out_indices, )
        head = num_stages + 1
        for index in out_indices:
            if not isinstance(index, int) or not -head - 1 <= index <= head:
                raise ValueError(
                    f'out_indices is {tuple(out_indices)}, but this arch has '
                    f'0 (stem), 1 to {num_stages} (stages) and {head} (head '
                    'convolution; -1 for any arch)')
        if not out_indices:
            raise ValueError('out_indices is empty, expected at least one')
        resolved = tuple(i % (head + 1) for i in out_indices)
        if list(resolved) != sorted(set(resolved)):
            raise ValueError(f'out_indices is {tuple(out_indices)}, expected '
                             'increasing indices without repetition')
        return resolved

    def _freeze_stages(self) -> None:
        for layer in self.layers[:self.frozen_stages + 1]:
            layer.eval()
            for param in layer.parameters():
                param.requires_grad = False

    def train(self, mode: bool = True) -> 'AutoNL':
        """As ``nn.Module.train``; frozen layers and norms keep eval mode."""
        super().train(mode)
        self._freeze_stages()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def _check_input(self, x: Tensor) -> None:
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f'AutoNL got an input of shape {tuple(x.shape)}, expected '
                f'(N, {self.in_channels}, H, W); for another number of '
                'channels build it with in_channels')
        if min(x.shape[2:]) < self._full_stride:
            raise ValueError(
                f'AutoNL got images of {x.shape[2]}x{x.shape[3]}, smaller '
                f'than its stride {self._full_stride}: give larger images, '
                'or ask for earlier out_indices or a smaller output_stride')

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        """``(N, in_channels, H, W)`` to a tuple of one feature map per index.

        Raises:
            ValueError: If the number of channels differs or the image is smaller
                than the backbone's stride.
        """
        self._check_input(x)
        outs = []
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs)

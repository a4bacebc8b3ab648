# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The networks of both releases, reimplemented, with their names of weights.

Independent of the package and of torch's convolutions. A network is a list of
rows (expand, out, stride, kernel, LightNL's ratio, its stride, SE's ratio),
as in the table of the releases. Everything is computed in float64.
"""
import random

import numpy as np

AUTONL_S = [
    (1, 16, 1, 3, 0, 1, 0),
    (3, 24, 2, 3, 0.25, 1, 0),
    (3, 24, 1, 3, 0, 1, 0),
    (3, 40, 2, 5, 0.25, 1, 0),
    (3, 40, 1, 3, 0.25, 2, 0),
    (3, 40, 1, 3, 0, 1, 0),
    (6, 80, 2, 5, 0.25, 1, 0.25),
    (3, 80, 1, 3, 0, 1, 0.5),
    (3, 80, 1, 3, 0, 1, 0.5),
    (6, 96, 1, 5, 0.25, 1, 0.25),
    (3, 96, 1, 3, 0, 1, 0.5),
    (3, 96, 1, 3, 0, 1, 0.5),
    (3, 96, 1, 3, 0, 1, 0.5),
    (6, 192, 2, 5, 0.25, 1, 0.25),
    (3, 192, 1, 5, 0, 1, 0.5),
    (3, 192, 1, 5, 0, 1, 0.5),
    (3, 192, 1, 5, 0, 1, 0.5),
    (6, 320, 1, 5, 0.25, 1, 0.5),
]
AUTONL_L = [
    (1, 16, 1, 3, 0, 1, 0),
    (3, 24, 2, 5, 0.25, 1, 0),
    (3, 24, 1, 5, 0, 1, 0),
    (3, 24, 1, 3, 0.25, 2, 0),
    (6, 40, 2, 5, 0.25, 1, 0),
    (3, 40, 1, 3, 0.25, 2, 0),
    (3, 40, 1, 3, 0.25, 2, 0),
    (3, 40, 1, 3, 0.25, 2, 0),
    (6, 80, 2, 5, 0.25, 1, 0),
    (3, 80, 1, 3, 0, 1, 0.5),
    (3, 80, 1, 3, 0, 1, 0.5),
    (3, 80, 1, 3, 0.125, 2, 0.5),
    (6, 96, 1, 5, 0.25, 1, 0.5),
    (3, 96, 1, 5, 0, 1, 0.5),
    (3, 96, 1, 5, 0, 1, 0.5),
    (3, 96, 1, 3, 0.25, 2, 0.5),
    (6, 192, 2, 5, 0.25, 1, 0.5),
    (6, 192, 1, 5, 0.125, 1, 0.5),
    (6, 192, 1, 5, 0.125, 1, 0.5),
    (6, 192, 1, 5, 0, 1, 0.5),
    (6, 320, 1, 5, 0.25, 1, 0.5),
]


def random_rows(seed):
    """Rows of a random network of 3 to 7 blocks, of any kind."""
    rng = random.Random(seed)
    rows, width = [], 32
    for _ in range(rng.randint(3, 7)):
        stride = rng.choice([1, 1, 2])
        out = width if rng.random() < 0.4 else rng.choice([12, 18, 22, 40])
        rows.append((rng.choice([1, 3, 6]), out, stride, rng.choice([3, 5, 7]),
                     rng.choice([0, 0.125, 0.25, 0.5, 1]), rng.choice([1, 2]),
                     # the rounding rules differ for 18 and 22 channels
                     rng.choice([0, 0.25, 0.3, 0.5])))
        width = out
    return rows


def notation(rows, head=1280):
    """The rows in the authors' notation."""
    lines, width = [], 32
    for e, out, s, k, nl, nl_stride, se in rows:
        lines.append(f'r1_k{k}_s{s}{s}_e{e}_i{width}_o{out}' +
                     (f'_se{se}' if se else '') +
                     (f'_nonlocal{nl}-{nl_stride}' if nl else ''))
        width = out
    return '\n'.join(lines + [f'head{head}'])


def swish(x):
    return x / (1 + np.exp(-x))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def product(x, ratio, stride):
    """LightNL's product without any divisor, ``(N, C, H, W)``."""
    k = int(ratio * x.shape[1])
    x_s = x[:, :, ::stride, ::stride].reshape(*x.shape[:2], -1)
    context = x_s @ x_s[:, :k].transpose(0, 2, 1)
    y = context @ x[:, :k].reshape(len(x), k, -1)
    return y.reshape(x.shape)


def windows(x, k, stride, pads):
    """For each kernel position, its pixels: ``((i, j), (N, C, H', W'))``."""
    (top, bottom), (left, right) = pads
    out = [(n + a + b - k) // stride + 1 for n, (a, b) in zip(x.shape[2:], pads)]
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    for i in range(k):
        for j in range(k):
            yield (i, j), x[:, :, i:i + stride * (out[0] - 1) + 1:stride,
                            j:j + stride * (out[1] - 1) + 1:stride]


def matmul(matrix, x):
    """``(O, C)`` times ``(N, C, H, W)``."""
    y = matrix @ x.reshape(*x.shape[:2], -1)
    return y.reshape(len(x), -1, *x.shape[2:])


class Weights:
    """Random float32 weights, each generated when it is first used.

    Args:
        seed (int): Random seed.
        known (dict, optional): Weights to use instead of random ones.
    """

    def __init__(self, seed=0, known=None):
        self.rng = np.random.default_rng(seed)
        self.frozen = known is not None
        self.known = {} if known is None else known

    def get(self, name, shape, scale=None, low=None, high=None):
        if not self.frozen:
            if scale is None:
                value = self.rng.uniform(low, high, shape)
            else:
                value = self.rng.normal(0, scale, shape)
            self.known[name] = value.astype(np.float32)
        assert self.known[name].shape == tuple(shape), name
        return self.known[name].astype(np.float64)

    def norm(self, x, names, eps=1e-3):
        """BN in eval mode; ``names`` are the names of its four tensors.

        New statistics are random, but of the magnitude of the input: LightNL's
        output grows with the cube of its input, and otherwise it overflows.
        """
        c = x.shape[1]
        gamma = self.get(names[0], (c, ), low=0.5, high=1.5)
        beta = self.get(names[1], (c, ), scale=0.3)
        std = x.std()
        mean = self.get(names[2], (c, ), scale=0.3 * std)
        var = self.get(names[3], (c, ), low=0.5 * std**2, high=2 * std**2)
        scale = gamma / np.sqrt(var + eps)
        return x * scale[:, None, None] + (beta - mean * scale)[:, None, None]


def tf_release(x, rows, weights, head=1280, classes=1000):
    """Logits of the TensorFlow release's network.

    Args:
        x (ndarray): ``(N, 3, H, W)``.
        rows (list[tuple]): The network.
        weights (Weights): By the release's names.
        head (int): Channels of the head convolution.
        classes (int): Outputs of the linear layer.
    """
    model = 'single-path/mnas_net_model/'
    count = dict(conv2d=0, depthwise_conv2d=0)

    def number(kind):
        count[kind] += 1
        return kind + (f'_{count[kind] - 1}' if count[kind] > 1 else '')

    def conv(x, scope, out, k=1, stride=1, name=None, bias=False):
        name = f'{model}{scope}/{name or number("conv2d")}'
        c = x.shape[1]
        kernel = weights.get(f'{name}/kernel', (k, k, c, out), (k * k * c)**-0.5)
        y = sum(matmul(kernel[i, j].T, part)
                for (i, j), part in windows(x, k, stride, same(x, k, stride)))
        if bias:
            y += weights.get(f'{name}/bias', (out, ), 0.5)[:, None, None]
        return y

    def same(x, k, stride):
        pads = []
        for n in x.shape[2:]:
            total = max((-(-n // stride) - 1) * stride + k - n, 0)
            pads.append((total // 2, total - total // 2))
        return pads

    def depthwise(x, scope, k, stride=1, scale=None):
        c = x.shape[1]
        name = f'{model}{scope}/{number("depthwise_conv2d")}'
        kernel = weights.get(f'{name}/depthwise_kernel', (k, k, c, 1), scale or 1 / k)
        return sum(part * kernel[i, j, :, 0, None, None]
                   for (i, j), part in windows(x, k, stride, same(x, k, stride)))

    def norm(x, scope, i=0):
        name = f'single-path/{scope}/batch_normalization' + (f'_{i}' if i else '')
        return weights.norm(x, [
            f'{name}/{t}'
            for t in ('gamma', 'beta', 'moving_mean', 'moving_variance')
        ])

    # Stem and head are built last, but the stem runs first.
    total = sum(1 + (e > 1) + 2 * bool(se) for e, *_, se in rows)
    x = swish(norm(conv(x, 'mnas_stem', 32, 3, 2, f'conv2d_{total}'), 'mnas_stem'))
    for n, (e, out, stride, k, nl, nl_stride, se) in enumerate(rows):
        scope, norms, width, block_in = f'mnas_blocks_{n}', 0, x.shape[1], x
        if e > 1:
            x = swish(norm(conv(x, scope, width * e), scope))
            norms = 1
        x = swish(norm(depthwise(x, scope, k, stride), scope, norms))
        if se:
            hidden = max(1, int(width * se))
            s = x.mean((2, 3), keepdims=True)
            s = swish(conv(s, f'{scope}/se', hidden, bias=True))
            x = x * sigmoid(conv(s, f'{scope}/se', x.shape[1], bias=True))
        x = norm(conv(x, scope, out), scope, norms + 1)
        if nl:
            y = product(x, nl, nl_stride) / (x.shape[2] * x.shape[3])
            y = depthwise(y, f'{scope}/nl', 3, scale=0.1)
            x = x + norm(y, f'{scope}/nl')
        if stride == 1 and width == out:
            x = x + block_in
    x = swish(norm(conv(x, 'mnas_head', head, name=f'conv2d_{total + 1}'), 'mnas_head'))
    dense = f'{model}mnas_head/dense'
    kernel = weights.get(f'{dense}/kernel', (head, classes), head**-0.5)
    return x.mean((2, 3)) @ kernel + weights.get(f'{dense}/bias', (classes, ), 0.5)


def torch_release(x, rows, weights, head=1280, classes=1000):
    """Logits of the PyTorch release's network; arguments as above."""

    def conv(x, name, out, k=1, stride=1, bias=False):
        c = x.shape[1]
        weight = weights.get(f'{name}.weight', (out, c, k, k), (k * k * c)**-0.5)
        y = sum(matmul(weight[:, :, i, j], part)
                for (i, j), part in windows(x, k, stride, [(k // 2, k // 2)] * 2))
        if bias:
            y += weights.get(f'{name}.bias', (out, ), 0.5)[:, None, None]
        return y

    def depthwise(x, name, k, stride=1, scale=None):
        weight = weights.get(f'{name}.weight', (x.shape[1], 1, k, k), scale or 1 / k)
        return sum(part * weight[:, 0, i, j, None, None]
                   for (i, j), part in windows(x, k, stride, [(k // 2, k // 2)] * 2))

    def norm(x, name):
        return weights.norm(x, [
            f'{name}.{t}'
            for t in ('weight', 'bias', 'running_mean', 'running_var')
        ])

    x = swish(norm(conv(x, 'features.0.0', 32, 3, 2), 'features.0.1'))
    for n, (e, out, stride, k, nl, nl_stride, se) in enumerate(rows, 1):
        name, width, block_in = f'features.{n}', x.shape[1], x
        if e > 1:
            x = conv(x, f'{name}.expand_conv.0', width * e)
            x = swish(norm(x, f'{name}.expand_conv.1'))
        dw = f'{name}.depth_ops.0.{int(e > 1)}'
        x = swish(norm(depthwise(x, f'{dw}.0', k, stride), f'{dw}.1'))
        if se:
            s = x.mean((2, 3), keepdims=True)
            s = swish(conv(s, f'{name}.se_op.se_reduce', round(width * se), bias=True))
            x = x * sigmoid(conv(s, f'{name}.se_op.se_expand', x.shape[1], bias=True))
        x = norm(conv(x, f'{name}.project_conv.0', out), f'{name}.project_conv.1')
        if nl:
            # the release's divisor, H / H * W / W
            y = product(x, nl, nl_stride) / x.shape[2] * x.shape[3]
            y = depthwise(y, f'{name}.nl_op.depthwise_conv', 3,
                          scale=0.1 / (x.shape[2] * x.shape[3]))
            x = x + norm(y, f'{name}.nl_op.bn')
        if stride == 1 and width == out:
            x = x + block_in
    n = len(rows) + 1
    x = swish(norm(conv(x, f'features.{n}.0', head), f'features.{n}.1'))
    weight = weights.get('classifier.1.weight', (classes, head), head**-0.5)
    return x.mean((2, 3)) @ weight.T + weights.get('classifier.1.bias',
                                                   (classes, ), 0.5)

# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""RMSprop with TensorFlow's update rule, with which AutoNL was trained."""
from typing import Callable, Iterable, Optional, Union

import torch
from torch.optim import Optimizer

from autonl_mm.registry import OPTIMIZERS


@OPTIMIZERS.register_module()
class RMSpropTF(Optimizer):
    r"""RMSprop as TensorFlow computes it.

    .. math::
        g &\leftarrow g + \lambda w \\
        s &\leftarrow \alpha s + (1 - \alpha) g^2, \quad s_0 = 1 \\
        b &\leftarrow \mu b + \eta \, g / \sqrt{s + \epsilon} \\
        w &\leftarrow w - b

    It differs from :class:`torch.optim.RMSprop` in three places, which matter
    with the ``eps`` of 1e-3 and the learning-rate decay of AutoNL's training:
    ``eps`` is inside the square root, the mean square starts at one, and the
    learning rate is inside the momentum buffer.

    Args:
        params (Iterable): Parameters or parameter groups.
        lr (float): Learning rate. Defaults to 0.016.
        alpha (float): Decay of the mean square. Defaults to 0.9.
        eps (float): Added to the mean square. Defaults to 1e-3.
        weight_decay (float): L2 penalty. It is added to the gradient, which
            equals a penalty in the loss, as in both releases. Defaults to 0.
        momentum (float): Momentum. Defaults to 0.9.

    Raises:
        ValueError: If a value is out of range.
    """

    def __init__(self,
                 params: Union[Iterable[torch.Tensor], Iterable[dict]],
                 lr: float = 0.016,
                 alpha: float = 0.9,
                 eps: float = 1e-3,
                 weight_decay: float = 0.,
                 momentum: float = 0.9):
        for name, value in dict(
                lr=lr, eps=eps, weight_decay=weight_decay,
                momentum=momentum).items():
            if value < 0:
                raise ValueError(f'{name} of RMSpropTF is {value}, expected '
                                 'at least 0')
        if not 0 <= alpha < 1:
            raise ValueError(f'alpha of RMSpropTF is {alpha}, expected a '
                             'value in [0, 1)')
        defaults = dict(
            lr=lr,
            alpha=alpha,
            eps=eps,
            weight_decay=weight_decay,
            momentum=momentum)
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Optional[Callable] = None):
        """Take one step.

        Args:
            closure (Callable, optional): Computes the loss again and returns
                it. Defaults to None.

        Returns:
            float, optional: The loss of ``closure``, or None without it.

        Raises:
            RuntimeError: If a gradient is sparse.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group['params'] if p.grad is not None]
            if not params:
                continue
            for p in params:
                if p.grad.is_sparse:
                    raise RuntimeError('RMSpropTF does not support sparse gradients: '
                                       'use torch.optim.SparseAdam for them')
                state = self.state[p]
                if not state:
                    state['square_avg'] = torch.ones_like(p)
                    state['momentum_buffer'] = torch.zeros_like(p)
            grads = [p.grad for p in params]
            squares = [self.state[p]['square_avg'] for p in params]
            buffers = [self.state[p]['momentum_buffer'] for p in params]
            if group['weight_decay']:
                grads = torch._foreach_add(
                    grads, params, alpha=group['weight_decay'])
            torch._foreach_mul_(squares, group['alpha'])
            torch._foreach_addcmul_(
                squares, grads, grads, value=1 - group['alpha'])
            roots = torch._foreach_add(squares, group['eps'])
            torch._foreach_sqrt_(roots)
            torch._foreach_mul_(buffers, group['momentum'])
            torch._foreach_addcdiv_(buffers, grads, roots, value=group['lr'])
            torch._foreach_sub_(params, buffers)
        return loss

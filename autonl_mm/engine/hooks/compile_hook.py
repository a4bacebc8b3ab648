# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Compile a model's network without graph breaks."""
from typing import Optional, Sequence

from mmengine.hooks import Hook
from mmengine.runner import Runner

from autonl_mm.registry import HOOKS
from autonl_mm.runs.model_wrappers import task_model

PARTS = ('backbone', 'neck', 'head', 'bbox_head')


@HOOKS.register_module()
class CompileHook(Hook):
    """Compile parts of a model before a run, each to one graph.

    mmengine's own setting ``compile=True`` compiles all of ``train_step``, in
    which losses and ``backward`` break the graph, and it compiles nothing for
    evaluation. This hook compiles the parts that take most of the time, for
    training and evaluation. Names in checkpoints stay the same.

    Args:
        parts (Sequence[str], optional): Names of submodules. Each must be
            called itself: a decode head of mmseg does not work, because only
            its methods are called. Defaults to None, which means ``backbone``,
            ``neck``, ``head`` and ``bbox_head``, if the model has them.
        **kwargs: Arguments of :func:`torch.compile`. ``fullgraph`` defaults to
            True.

    Raises:
        ValueError: If the model does not have one of the parts.
    """

    def __init__(self, parts: Optional[Sequence[str]] = None, **kwargs):
        self.parts = parts
        self.kwargs = dict(dict(fullgraph=True), **kwargs)

    def before_run(self, runner: Runner) -> None:
        """Compile in place; torch compiles a part when it is first called."""
        model = task_model(runner.model)
        parts = self.parts
        if parts is None:
            parts = [p for p in PARTS if getattr(model, p, None) is not None]
        for part in parts:
            try:
                module = model.get_submodule(part)
            except AttributeError:
                names = [name for name, _ in model.named_children()]
                raise ValueError(
                    f'CompileHook: the model has no part {part!r}, expected one '
                    f'of {names} or a submodule of them') from None
            module.compile(**self.kwargs)
        runner.logger.info(f'compiled: {", ".join(parts)}; the first '
                           'iterations take longer')

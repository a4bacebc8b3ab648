# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Compile a model's network without graph breaks."""
from typing import Optional, Sequence

from mmengine.hooks import Hook
from mmengine.runner import Runner

from autonl_mm.nas import task_model
from autonl_mm.registry import HOOKS

PARTS = ('backbone', 'neck', 'head', 'bbox_head')


@HOOKS.register_module()
class CompileHook(Hook):
    """Turn parts of a model into one compiled graph each before a run.

    The config's ``compile=True``, mmengine's own switch, compiles all of
    ``train_step``, in which losses and ``backward`` break the graph, and
    nothing of evaluation. This compiles what the time goes to, in training
    and in evaluation. Names in checkpoints stay as they are.

    Args:
        parts (Sequence[str], optional): Names of submodules, each of which
            must be called, not only used by its methods: a decode head of
            mmseg is not. Defaults to None, those of ``backbone``, ``neck``,
            ``head`` and ``bbox_head`` that there are.
        **kwargs: As for :func:`torch.compile`; ``fullgraph`` is True unless
            it is given.

    Raises:
        ValueError: If the model has no such part.
    """

    def __init__(self, parts: Optional[Sequence[str]] = None, **kwargs):
        self.parts = parts
        self.kwargs = dict(dict(fullgraph=True), **kwargs)

    def before_run(self, runner: Runner) -> None:
        """Compile in place; torch does it when a part is first called."""
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
                    f'CompileHook: parts has {part!r}, but the model has '
                    f'only {names} and what is in them') from None
            module.compile(**self.kwargs)
        runner.logger.info(f'compiled: {", ".join(parts)}; the first '
                           'iterations take longer')

# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Check of the labels in each batch against the number of classes."""
from typing import Dict, Iterable, Optional

import torch.nn as nn
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..model_wrappers import part_name, task_model


def classifying_heads(model: nn.Module) -> Dict[str, nn.Module]:
    """The heads of a task model that predict the dataset's classes.

    Args:
        model (nn.Module): The model, possibly inside of wrappers.

    Returns:
        dict[str, nn.Module]: Heads by name; each head has ``num_classes``.
    """
    return {
        name: m
        for name, m in task_model(model).named_modules()
        if part_name(name).endswith('head')
        and not name.endswith(('rpn_head', 'semantic_head'))
        and (getattr(m, 'num_classes', None) or 0) > 0
    }


def is_binary(head: nn.Module) -> bool:
    """Whether a segmentor's head has one output channel, for the labels 0 and 1."""
    return getattr(head, 'out_channels', None) == 1


def wrong_labels(image: str, labels: Iterable[int], num_classes: int) -> ValueError:
    """The error for labels of an image that are no class."""
    return ValueError(
        f'{image} has labels {sorted(labels)[:5]}, but the head has classes 0 to '
        f'{num_classes - 1}: convert the annotations, or set num_classes of the heads '
        'and metainfo.classes of the datasets')


class LabelCheckHook(Hook):
    """Refuse labels that are not classes of the heads.

    Without this check such a label ends the process: on a GPU with an assertion of a
    kernel, on a CPU with an index error that does not name the image.
    """

    priority = 'HIGHEST'

    def before_run(self, runner: Runner) -> None:
        """Read the heads' number of classes and the label to ignore."""
        heads = list(classifying_heads(runner.model).values())
        self.num_classes = min(
            (2 if is_binary(m) else m.num_classes for m in heads), default=None)
        self.ignore = {getattr(m, 'ignore_index', None) for m in heads}

    def before_train_iter(self,
                          runner: Runner,
                          batch_idx: int,
                          data_batch: Optional[dict] = None) -> None:
        """Check a batch.

        Raises:
            ValueError: If a label is not a class; names the image, the label
                and the valid classes.
        """
        if self.num_classes is None or not isinstance(data_batch, dict):
            return
        for sample in data_batch.get('data_samples') or ():
            if 'gt_instances' in sample:  # a detector's map has the stuff's labels too
                labels = sample.gt_instances.labels
            elif 'gt_sem_seg' in sample:
                labels = sample.gt_sem_seg.data
            elif 'gt_label' in sample:
                labels = sample.gt_label
            else:
                continue
            wrong = (labels < 0) | (labels >= self.num_classes)
            if not wrong.any():
                continue
            wrong = set(labels[wrong].unique().tolist()) - self.ignore
            if wrong:
                image = sample.metainfo.get('img_path', 'an image')
                if 'MultiImageMix' in type(runner.train_dataloader.dataset).__name__:
                    image += ', or an image that was mixed into it,'
                raise wrong_labels(image, wrong, self.num_classes)

# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""A dry run: parts of a model that do not fit each other fail before the run starts."""
import copy
from contextlib import ExitStack
from functools import partial
from typing import Any, Dict, List, Optional
from unittest import mock

import torch
import torch.distributed as dist
import torch.nn as nn
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.runner import Runner

from .classes import built_leaves
from .hooks.label_check_hook import LabelCheckHook
from .model_wrappers import task_model, unwrap_model
from .random_state import preserve_random_states

# Errors of layers whose input does not fit. Errors of other kinds may come from a state
# that hooks change later.
MISFITS = (RuntimeError, ValueError, IndexError, AssertionError)
ONE_VALUE = 'more than 1 value per channel'  # torch's error of a BN
# A feature map with fewer rows does not show its stride; smallest ratio of two strides
MIN_ROWS, OTHER_STRIDE = 4, 1.4


def check_forward(runner: Runner, train: bool) -> None:
    """Pass at most two images through a copy of the model.

    The model, the random states and the dataset's transforms do not change. With
    several ranks, each rank tries its own copy without communication.

    Args:
        runner (Runner): The runner; its datasets are built.
        train (bool): Whether to compute losses, as in training, or predictions.

    Raises:
        ValueError: If parts of the model do not fit each other, if a label is not a
            class, or if a BN cannot train on a last batch of one image. Names the part
            and its feature maps.
    """
    name = 'train_dataloader' if train else 'test_dataloader'
    loader = getattr(runner, name)
    size = getattr(loader, 'batch_size', None)
    if not size or type(loader.sampler) not in (DefaultSampler, InfiniteSampler):
        return  # a batch may need more, such as labelled and unlabelled images
    count = len(loader.dataset)
    if isinstance(loader.sampler, DefaultSampler):
        count = len(loader.sampler)
        last_of_one = size == 1 or (not loader.drop_last and count % size == 1)
    else:
        last_of_one = size == 1  # other batches are full
    images = 1 if last_of_one else min(size, 2)
    with preserve_random_states():
        try:
            dataset = _copy_transforms(loader.dataset)
            data = loader.collate_fn([dataset[i % count] for i in range(images)])
        except Exception:  # the run reports it, with the image
            return
        if train:  # a label that is not a class would end the process on a GPU
            check = LabelCheckHook()
            check.before_run(runner)
            check.before_train_iter(runner, 0, data)
        try:
            try_batch(runner.model, data, train)
        except ValueError as e:
            if ONE_VALUE not in str(e):
                raise
            raise ValueError(
                f'{name} gives a batch of one image ({count} images on a rank in '
                f'batches of {size}), on which a BN of the model cannot train, since '
                'it sees one value per channel: set '
                + (f'{name}.batch_size to 2 or more' if size == 1 else
                   f'{name}.drop_last=True, or another batch_size')) from None


def _copy_transforms(dataset: Any) -> Any:
    """Copy a dataset with its transforms, which may keep images; share annotations."""
    shared = [value for _, leaf in built_leaves('', dataset)
              for key, value in vars(leaf).items() if key != 'pipeline']
    return copy.deepcopy(dataset, {id(value): value for value in shared})


def try_batch(model: nn.Module, data: dict, train: bool) -> None:
    """Pass a batch through a copy of a model.

    Args:
        model (nn.Module): A task model, possibly in wrappers. It is not tried if it is
            not a model of mmengine, has no parameters, or does not fit into memory
            twice.
        data (dict): The batch, as the dataloader gives it.
        train (bool): Whether to compute losses or predictions.

    Raises:
        ValueError: If the model fails, or if a head's strides differ from the strides
            of its feature maps. Names the part and its feature maps.
    """
    model = unwrap_model(model)
    if not hasattr(model, 'test_step') or not any(True for _ in model.parameters()):
        return
    with ExitStack() as stack:
        # SyncBN and losses must not wait for other ranks, which may fail elsewhere
        stack.enter_context(mock.patch.object(
            dist, 'is_initialized', return_value=False))
        stack.enter_context(torch.no_grad())
        try:
            # takes less memory than the gradients of a training
            model = copy.deepcopy(model).train(train)
        except Exception:  # some models cannot be copied
            return
        for p in model.parameters():  # some have no value before init_weights
            if p.is_floating_point():
                p.nan_to_num_(0, 0, 0).clamp_(-1, 1)
        task = task_model(model)
        maps: Dict[str, List[torch.Tensor]] = {}
        for name in ('backbone', 'neck'):
            if isinstance(getattr(task, name, None), nn.Module):
                getattr(task, name).register_forward_hook(partial(_keep, maps, name))
        try:
            if train:
                data = model.data_preprocessor(data, True)
                model._run_forward(data, mode='loss')
            else:
                model.test_step(data)
        except (torch.cuda.OutOfMemoryError, MemoryError, NotImplementedError):
            return
        except MISFITS as e:
            message = _describe_failure(e, task, maps)
            if message is None:
                return  # not in a part of the model: the run reports it
            raise ValueError(message) from None
        except Exception:  # the run reports it
            pass
        _check_strides(task, maps)


def _keep(maps: Dict[str, List[torch.Tensor]], name: str, module: nn.Module,
          args: tuple, out: Any) -> None:
    """Keep the feature maps of a part, and the input of the backbone."""
    if name == 'backbone':
        maps['input'] = [args[0]]
    maps[name] = [m for m in (out if isinstance(out, (list, tuple)) else [out])
                  if isinstance(m, torch.Tensor)]


def _describe_failure(error: Exception, task: nn.Module,
                      maps: Dict[str, List[torch.Tensor]]) -> Optional[str]:
    """One line on a failure, None if it was outside of the task model."""
    names = {id(module): name for name, module in task.named_modules() if name}
    place, trace = '', error.__traceback__
    while trace is not None:  # to the innermost module
        place = names.get(id(trace.tb_frame.f_locals.get('self')), place)
        trace = trace.tb_next
    if not place or place.startswith('data_preprocessor'):
        return None
    text = ' '.join(str(error).split())[:300]
    levels = 1 + isinstance(getattr(task, place.split('.')[0]),
                            (nn.Sequential, nn.ModuleList))
    part = '.'.join(place.split('.')[:levels])
    message = (f'model.{part} cannot process a batch: {type(error).__name__}'
               f'{": " + text if text else ""} (in {place}). ')
    if part == 'backbone':
        return message + 'Change model.backbone, or the data preprocessor'
    own = getattr(task.get_submodule(part), 'in_channels', None)
    if own is not None:
        own = list(own) if isinstance(own, tuple) else own
        message += f'model.{part}.in_channels is {own}, but '
    message += '; '.join(
        _describe_maps(task, name, maps) for name in ('neck', 'backbone')
        if name in maps and not part.startswith(name))
    return message + f'. Change model.{part}, or out_indices of the backbone'


def _describe_maps(task: nn.Module, source: str,
                   maps: Dict[str, List[torch.Tensor]]) -> str:
    channels = [m.shape[1] for m in maps[source]]
    module = getattr(task, source)
    text = (f'the {source} {type(module).__name__} gives {len(channels)} feature maps '
            f'of {channels} channels')
    strides = getattr(module, 'out_strides', None)
    if isinstance(strides, (list, tuple)):
        text += f' at strides {list(strides)}'
    if hasattr(module, 'out_indices'):
        text += f' for out_indices {tuple(module.out_indices)}'
    return text


def _check_strides(task: nn.Module, maps: Dict[str, List[torch.Tensor]]) -> None:
    """Compare the strides of heads and feature maps: no layer fails if they differ.

    Args:
        task (nn.Module): The task model.
        maps (dict[str, list[Tensor]]): Input, and feature maps of backbone and
            neck, ``(N, C, H, W)``.
    """
    given = [m for m in maps.get('neck', maps.get('backbone', ())) if m.dim() == 4]
    for name, head in task.named_children():
        prior = getattr(head, 'prior_generator', None)
        key = 'anchor_generator.strides' if prior else 'feature_strides'
        strides = getattr(prior, 'strides', None) or getattr(
            head, 'feature_strides', None)
        if not isinstance(strides, (list, tuple)):
            continue
        strides = [s[0] if isinstance(s, (list, tuple)) else s for s in strides]
        index = getattr(head, 'in_index', None)
        used = given
        if isinstance(index, (list, tuple)):
            used = [given[i] for i in index if i < len(given)]
        pairs = [(stride, maps['input'][0].shape[-2] / m.shape[-2])
                 for stride, m in zip(strides, used)
                 if m.shape[-2] >= MIN_ROWS]
        if any(not 1 / OTHER_STRIDE < real / stride < OTHER_STRIDE
               for stride, real in pairs):
            raise ValueError(
                f'model.{name}.{key} starts with {[s for s, _ in pairs]}, but its '
                f'feature maps have strides {[round(real) for _, real in pairs]}; '
                f'{_describe_maps(task, "backbone", maps)}: change out_indices or '
                f'output_stride of the backbone, or model.{name}.{key}')

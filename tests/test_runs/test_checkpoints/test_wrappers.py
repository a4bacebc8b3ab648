# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Weights saved from inside of DDP, torch.compile or an average load everywhere."""
import shutil
from collections import OrderedDict

import mmengine.runner.checkpoint as mmengine_checkpoint
import pytest
import torch
from conftest import load_tool
from mmengine.hooks import EMAHook
from mmengine.model import BaseModel, BaseModule, ExponentialMovingAverage
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from mmengine.runner import load_checkpoint as load_into_model
from search_spaces import TINY_SPACE
from torch import nn
from torch.optim.swa_utils import AveragedModel

from autonl_mm import checkpoint
from autonl_mm.converters import torch_release
from autonl_mm.nas import load_search
from autonl_mm.runs.checkpoints import MismatchError, fit_wrappers, load_checkpoint

checkpoint.install()

WRAPPERS = dict(
    plain=lambda model: model, parallel=nn.DataParallel, compiled=torch.compile,
    both=lambda model: torch.compile(nn.DataParallel(model)),
    twice=lambda model: nn.DataParallel(nn.DataParallel(torch.compile(model))),
    average=AveragedModel, mmengine_average=ExponentialMovingAverage)


class Toy(BaseModel):
    """A classifier's parts; ``modules_of_it`` starts as a wrapper's name does."""

    def __init__(self, init_cfg=None):
        super().__init__(init_cfg=init_cfg)
        self.backbone = BaseModule()
        self.backbone.conv = nn.Conv2d(3, 4, 1)
        self.backbone.norm = nn.BatchNorm2d(4)
        self.modules_of_it = nn.Linear(4, 2)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        x = self.backbone.norm(self.backbone.conv(torch.stack(inputs)))
        return dict(loss=self.modules_of_it(x.mean((2, 3))).square().mean())


class Images(torch.utils.data.Dataset):

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return dict(inputs=torch.full((3, 2, 2), float(index)))


def run(work_dir, epochs, ema=True, model=Toy, **kwargs):
    """A finished run; its checkpoint's names are those of mmengine."""
    torch.manual_seed(0)
    runner = Runner(
        model(), str(work_dir),
        train_dataloader=dict(
            dataset=Images(), batch_size=2,
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='pseudo_collate')),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        custom_hooks=[dict(type='EMAHook', momentum=0.3)] if ema else [],
        experiment_name=f'wrappers_{work_dir}_{epochs}_{bool(kwargs)}',
        randomness=dict(seed=0), **kwargs)
    runner.train()
    return runner


def same(a, b):
    assert list(a) == list(b)
    for name in a:
        assert torch.equal(a[name], b[name]), name


def saved_from(how, model, path, bare=False):
    state = WRAPPERS[how](model).state_dict()
    torch.save(state if bare else dict(state_dict=state, meta={}), path)
    return str(path)


@pytest.fixture
def model():
    model = Toy()
    for value in model.state_dict().values():
        value.copy_(torch.rand(value.shape) * 9)
    return model


@pytest.fixture
def file(tmp_path):
    return tmp_path / 'weights.pth'


@pytest.mark.parametrize('how', WRAPPERS)
def test_names_without_wrappers(how, model):
    """The versions that torch keeps beside the names lose them too."""
    state = WRAPPERS[how](model).state_dict()
    names = list(state)
    fitted = fit_wrappers(state)
    same(fitted, model.state_dict())
    assert fitted._metadata == model.state_dict()._metadata
    assert list(state) == names
    again = fit_wrappers(fitted, state)
    same(again, {k: v for k, v in state.items() if k not in ('steps', 'n_averaged')})
    assert fit_wrappers(state, state) is state


def test_submodules_called_as_a_wrapper_stay():
    inside = nn.ModuleDict(dict(module=nn.Linear(1, 1), head=nn.Linear(1, 1)))
    state = inside.state_dict()
    assert fit_wrappers(state) is state
    assert fit_wrappers({1: 2}) == {1: 2} and fit_wrappers({}) == {}
    # also if a file has only that part, or the model has only that one
    part = OrderedDict((k, v) for k, v in state.items() if k.startswith('module.'))
    assert fit_wrappers(part, state) is part
    alone = nn.ModuleDict(dict(module=nn.Linear(1, 1))).state_dict()
    same(fit_wrappers(fit_wrappers(alone), alone), alone)


@pytest.mark.parametrize('bare', [False, True], ids=['checkpoint', 'weights alone'])
@pytest.mark.parametrize('ema', [False, True], ids=['', 'EMA'])
@pytest.mark.parametrize('how', WRAPPERS)
def test_load_from(how, ema, bare, model, file, tmp_path):
    path = saved_from(how, model, file, bare)
    runner = run(tmp_path / 'run', 0, ema, load_from=path)
    same(runner.model.state_dict(), model.state_dict())
    for hook in runner.hooks:
        if isinstance(hook, EMAHook):
            same(hook.ema_model.module.state_dict(), model.state_dict())


@pytest.mark.parametrize('prefix', [
    None, 'backbone.', 'backbone', 'module.backbone.', '_orig_mod.module.backbone.'])
@pytest.mark.parametrize('how', WRAPPERS)
def test_init_cfg(how, prefix, model, file):
    module = Toy() if prefix is None else Toy().backbone
    module.init_cfg = dict(
        type='Pretrained', checkpoint=saved_from(how, model, file), prefix=prefix)
    module.init_weights()
    same(module.state_dict(),
         model.state_dict() if prefix is None else model.backbone.state_dict())


def test_init_cfg_of_a_wrapper_inside(model, file):
    """Only the backbone was compiled; what comes after its prefix is a wrapper."""
    expected = model.backbone.state_dict()
    model.backbone = torch.compile(model.backbone)
    module = Toy().backbone
    module.init_cfg = dict(type='Pretrained', prefix='backbone.',
                           checkpoint=saved_from('parallel', model, file))
    module.init_weights()
    same(module.state_dict(), expected)


@pytest.mark.parametrize('how', ['plain', 'parallel', 'twice'])
def test_advice_names_what_there_is(how, model, file):
    module = Toy().backbone
    path = saved_from(how, model, file)
    module.init_cfg = dict(type='Pretrained', checkpoint=path)
    with pytest.raises(MismatchError, match=r"prefix='backbone\.'\)$") as error:
        module.init_weights()
    assert '\n' not in str(error.value) and 'module.' not in str(error.value)
    module.init_cfg.update(prefix='encoder.')
    with pytest.raises(MismatchError) as error:
        module.init_weights()
    assert str(error.value) == (
        f"{path} has no tensor whose name starts with 'encoder.', only with backbone., "
        'modules_of_it.: set one of these as init_cfg.prefix, or None to load the '
        'whole file')


def rewrapped(path, how):
    """A run's checkpoint with the names of a wrapper's state dict."""
    content = load_checkpoint(path)
    start = dict(parallel='module.', both='_orig_mod.module.')[how]
    content['state_dict'] = {start + k: v for k, v in content['state_dict'].items()}
    if 'ema_state_dict' in content:
        content['ema_state_dict'] = {
            (f'module.{start}{k[7:]}' if k.startswith('module.') else k): v
            for k, v in content['ema_state_dict'].items()}
    torch.save(content, path)


@pytest.mark.parametrize('ema', [False, True], ids=['', 'EMA'])
@pytest.mark.parametrize('how', ['parallel', 'both'])
def test_resume(how, ema, tmp_path):
    """The weights and their averages are those that were saved."""
    run(tmp_path / 'a', 2, ema)
    run(tmp_path / 'b', 1, ema)
    path = tmp_path / 'b/epoch_1.pth'
    rewrapped(path, how)
    run(tmp_path / 'b', 2, ema, load_from=str(path), resume=True)
    one, two = (load_checkpoint(tmp_path / name / 'epoch_2.pth') for name in 'ab')
    for key in ('state_dict', 'ema_state_dict')[:1 + ema]:
        same(one[key], two[key])


def test_resume_without_the_averages(tmp_path):
    """EMA is added to a run that had none; its weights were saved from DDP."""
    run(tmp_path / 'b', 1, ema=False)
    path = tmp_path / 'b/epoch_1.pth'
    state = load_checkpoint(path)['state_dict']
    rewrapped(path, 'parallel')
    runner = run(tmp_path / 'b', 1, load_from=str(path), resume=True)
    same(runner.model.state_dict(), state)


def test_a_compiled_model_gets_back_its_own_names(tmp_path):
    """A runner that is given a compiled model saves and loads its wrapper."""

    def compiled():
        return torch.compile(Toy())

    run(tmp_path / 'a', 2, model=compiled)
    run(tmp_path / 'b', 1, model=compiled)
    path = tmp_path / 'b/epoch_1.pth'
    names = load_checkpoint(path)['state_dict']
    assert all(name.startswith('_orig_mod.') for name in names)
    run(tmp_path / 'b', 2, model=compiled, load_from=str(path), resume=True)
    one, two = (load_checkpoint(tmp_path / name / 'epoch_2.pth') for name in 'ab')
    for key in ('state_dict', 'ema_state_dict'):
        same(one[key], two[key])
    # as weights, for models that are not compiled
    shutil.copy(path, tmp_path / 'weights.pth')
    runner = run(tmp_path / 'c', 0, load_from=str(tmp_path / 'weights.pth'))
    same(runner.model.state_dict(), fit_wrappers(names))


def test_submodules_called_as_a_wrapper_load(file):
    """mmengine's runner takes seven letters and one more for a wrapper."""

    class Named(Toy):

        def __init__(self):
            super().__init__()
            self.module = nn.Linear(1, 1)

    model = Named()
    path = saved_from('plain', model, file)
    for loaded in (run(file.parent / 'run', 0, model=Named, load_from=path).model,
                   Named()):
        load_into_model(loaded, path)
        same(loaded.state_dict(), model.state_dict())


def test_other_changes_of_names_stay_possible(model, file):
    path = saved_from('parallel', model, file)
    module = Toy().backbone
    load_into_model(module, path, revise_keys=[(r'^backbone\.', '')])
    same(module.state_dict(), model.backbone.state_dict())


def test_a_model_in_a_wrapper_loads(model, file):
    """Inside of DDP, as mmengine loads it, and in a wrapper that it does not know."""
    path = saved_from('both', model, file)
    for target in (nn.DataParallel(Toy()), torch.compile(Toy()), AveragedModel(Toy())):
        mmengine_checkpoint.load_checkpoint(target, path)
        same(fit_wrappers(target.state_dict()), model.state_dict())


@pytest.mark.parametrize('how', ['parallel', 'compiled', 'twice'])
def test_a_search(how, file, scope):
    init_default_scope('mmpretrain')
    cfg = dict(type='autonl_mm.CostAwareModel', cost_weight=0., model=dict(
        type='ImageClassifier',
        backbone=dict(type='autonl_mm.AutoNLSuperNet', space=TINY_SPACE,
                      input_shape=32),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=2, in_channels=32)))
    model, other = MODELS.build(cfg), MODELS.build(cfg)
    path = saved_from(how, model, file)
    load_search(other, path)
    same(other.state_dict(), model.state_dict())
    for target in (nn.DataParallel(MODELS.build(cfg)), torch.compile(other)):
        load_search(target, path)
        same(fit_wrappers(target.state_dict()), model.state_dict())


@pytest.mark.parametrize('bare', [False, True])
@pytest.mark.parametrize('how', ['parallel', 'both'])
def test_what_is_published(how, bare, model, file, tmp_path):
    tool = load_tool('tools/model_converters/publish_model.py')
    tool.main([saved_from(how, model, file, bare), str(tmp_path / 'out.pth')])
    path, = tmp_path.glob('out-*.pth')
    same(load_checkpoint(path)['state_dict'], model.state_dict())


def test_a_release(model):
    state = WRAPPERS['both'](model).state_dict()
    for source in (state, dict(model=state)):
        same(torch_release.select(source)[0], model.state_dict())

# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import textwrap

import mmengine.registry
import pytest
from conftest import run_tool
from mmcv.cnn import build_plugin_layer
from mmengine.registry import DefaultScope

import autonl_mm
from autonl_mm import registry
from autonl_mm.models import AutoNL, LightNL, PoolDropout

BLOCK = 'r1_k3_s11_e1_i8_o8_nonlocal0.5'
CODEBASES = ('mmpretrain', 'mmdet', 'mmseg')
PUBLIC = dict(
    MODELS=('AutoNL', 'AutoNLSuperNet', 'CostAwareModel', 'EngineModel', 'LightNL',
            'LightNLForm', 'PluginBackbone', 'PoolDropout', 'SharedNL',
            'SqueezeExcitePlugin'),
    METRICS=('NLL', ),
    OPTIM_WRAPPERS=('CpuAmpOptimWrapper', ),
    HOOKS=('BatchScaledEMAHook', 'ChannelsLastHook', 'CompileHook', 'DataTimeHook',
           'GateSearchHook', 'LabelCheckHook', 'SafeCheckpointHook',
           'SandwichSearchHook', 'SkippedImagesHook'),
    TRANSFORMS=('LoadImageOrSkip', 'ReleaseCenterCrop'),
    DATASETS=('HoldoutDataset', 'HoldoutFolder'))


def run_code(path, code, fresh=False):
    """Run code where autonl_mm is not imported yet.

    Args:
        path (Path): Where to write it.
        code (str): It may be indented.
        fresh (bool): Whether nothing at all is imported yet.

    Returns:
        str: What it printed.
    """
    path.write_text("import sys\nassert 'autonl_mm' not in sys.modules\n"
                    + textwrap.dedent(code))
    return run_tool(path, fresh=fresh).stdout


# ----------------------------------------------------------- nothing imported
AUTONL = dict(type='autonl_mm.AutoNL', arch=['r1_k3_s11_e1_i8_o8'], out_indices=(0, ))


@pytest.mark.parametrize('scope, name, cfg', [
    ('mmengine', 'MODELS', AUTONL),
    ('mmpretrain', 'MODELS', AUTONL),
    ('mmdet', 'MODELS', AUTONL),
    ('mmseg', 'MODELS', AUTONL),
    ('mmengine', 'HOOKS', dict(type='autonl_mm.BatchScaledEMAHook')),
    ('mmpretrain', 'DATASETS', dict(
        type='autonl_mm.HoldoutFolder', holdout=1, split='train', data_root='.',
        lazy_init=True)),
])
def test_scoped_names_need_no_import(scope, name, cfg, tmp_path):
    pytest.importorskip(scope)
    out = run_code(tmp_path / 'build.py', f"""
        from {scope}.registry import {name}
        assert 'autonl_mm' not in sys.modules
        built = {name}.build({cfg!r})
        print(type(built).__module__, type(built).__name__)
    """)
    module, built = out.split()[-2:]
    assert module.startswith('autonl_mm.') and f'autonl_mm.{built}' == cfg['type']


BLOCKER = """
    import sys

    class Blocker:
        names = {names!r}

        def find_spec(self, name, path=None, target=None):
            if any(name == n or name.startswith(n + '.') for n in self.names):
                raise ModuleNotFoundError(f'No module named {{name!r}}')

    sys.meta_path.insert(0, Blocker())
    for name in Blocker.names:
        try:
            __import__(name)
        except ImportError:
            continue
        raise AssertionError(f'{{name}} was not blocked')
"""


@pytest.mark.long
def test_core_needs_only_mmengine_and_mmcv_lite(tmp_path):
    blocker = textwrap.dedent(
        BLOCKER.format(
            names=('mmpretrain', 'mmdet', 'mmseg', 'timm', 'mmcv.ops', 'mmcv._ext')))
    out = run_code(tmp_path / 'core.py', blocker + textwrap.dedent("""
        import torch
        import autonl_mm
        from mmengine.registry import HOOKS, MODELS, OPTIM_WRAPPERS, TRANSFORMS
        model = MODELS.build(dict(type='autonl_mm.AutoNL', out_indices=(7, )))
        model.init_weights()
        out = model(torch.zeros(2, 3, 64, 64))[0]
        assert out.shape == (2, 320, 2, 2)
        assert autonl_mm.count_macs(model.arch()).total == 266974944
        for type_, root in [('BatchScaledEMAHook', HOOKS),
                            ('CpuAmpOptimWrapper', OPTIM_WRAPPERS),
                            ('LoadImageOrSkip', TRANSFORMS)]:
            cls = root.get('autonl_mm.' + type_)
            assert cls.__module__.startswith('autonl_mm.')
        loaded = [n for n in Blocker.names if n in sys.modules]
        assert not loaded, loaded
        print('built')
    """), fresh=True)
    assert 'built' in out


# ------------------------------------------------------------- after importing
@pytest.mark.parametrize('kind,name',
                         [(k, n) for k, names in PUBLIC.items() for n in names])
def test_registered_with_child_and_root(kind, name):
    if kind == 'DATASETS':
        pytest.importorskip('mmpretrain')
    child = getattr(registry, kind)
    root = getattr(mmengine.registry, kind)
    cls = child.get(name)
    assert cls is not None
    assert cls.__name__ == name
    assert root.get(f'autonl_mm.{name}') is cls
    # a generic name stays in its scope
    assert (root.module_dict.get(name) is cls) == (name in registry.BARE_NAMES)
    assert child.scope == 'autonl_mm' and child.parent is root


@pytest.mark.parametrize('codebase', CODEBASES)
def test_bare_names_under_every_default_scope(codebase):
    scoped = pytest.importorskip(f'{codebase}.registry')
    with DefaultScope.overwrite_default_scope(codebase):
        for models in mmengine.registry.MODELS, scoped.MODELS:
            model = models.build(dict(type='AutoNL', arch=[BLOCK], out_indices=(1, )))
            assert type(model) is AutoNL
            layer = models.build(dict(type='LightNL', in_channels=8))
            assert type(layer) is LightNL
            neck = models.build(dict(type='autonl_mm.PoolDropout'))
            assert type(neck) is PoolDropout


@pytest.mark.parametrize('codebase', (None, ) + CODEBASES)
def test_mmcv_builds_the_plugin_layer(codebase):
    if codebase:
        pytest.importorskip(codebase)
    with DefaultScope.overwrite_default_scope(codebase):
        for type_ in 'LightNL', 'autonl_mm.LightNL':
            name, layer = build_plugin_layer(
                dict(type=type_, channel_ratio=0.5, stride=2),
                in_channels=8,
                postfix='_x')
            assert name == 'light_nl_x'
            assert type(layer) is LightNL
            assert (layer.nl_channels, layer.stride) == (4, 2)


def test_registering_twice_is_an_error():
    with pytest.raises(KeyError, match='AutoNL'):
        registry.MODELS.register_module(module=AutoNL)


def test_decorator_forms(monkeypatch):
    """Names given and not, one and several; the bare ones reach the parent."""
    monkeypatch.setattr(registry, 'BARE_NAMES', {'A', 'Bee', 'C'})
    models = registry.PublicRegistry(
        'toy', parent=mmengine.registry.Registry('toy', scope='toy_root'),
        scope='toy')

    @models.register_module()
    class A:
        pass

    @models.register_module(name=['B', 'Bee'])
    class B:
        pass

    class C:
        pass

    assert models.register_module(module=C) is C
    assert dict(models.module_dict) == dict(A=A, B=B, Bee=B, C=C)
    assert dict(models.parent.module_dict) == dict(A=A, Bee=B, C=C)


UNTOUCHED = """
    import torch
    import mmengine.fileio, mmengine.hooks, mmengine.infer.infer as infer
    import mmengine.runner.checkpoint as saved
    import mmengine.runner.runner as runner
    from mmengine.config import Config
    from mmengine.registry import HOOKS

    def state():
        backends = mmengine.fileio.backends
        return [
            dict(saved.CheckpointLoader._schemes), saved.load_url,
            saved.load_state_dict, saved._load_checkpoint_with_prefix,
            [m._load_checkpoint_to_model for m in (saved, runner, infer)],
            mmengine.hooks.EMAHook.after_load_checkpoint,
            Config.fromstring, infer.BaseInferencer._init_model,
            dict(backends.backends), dict(backends.prefix_to_backends),
            dict(mmengine.fileio.FileClient._backends),
            dict(mmengine.fileio.handlers.file_handlers), HOOKS.get('CheckpointHook'),
            set(torch.serialization.get_safe_globals()),
        ]

    before = state()
"""


def test_importing_patches_nothing(tmp_path):
    """Nor does building by a scoped name."""
    out = run_code(tmp_path / 'untouched.py',
                   textwrap.dedent(UNTOUCHED) + textwrap.dedent("""
        import autonl_mm
        import autonl_mm.runs.launch, autonl_mm.experiments.trials
        from mmengine.registry import MODELS
        MODELS.build(dict(type='autonl_mm.LightNL', in_channels=8))
        assert state() == before
        print('untouched')
    """))
    assert 'untouched' in out


@pytest.mark.parametrize('how', [
    'import autonl_mm.safe_checkpoints',
    'autonl_mm.checkpoint.install()\nautonl_mm.checkpoint.install()',
    'Config(dict(custom_imports=dict(imports=["autonl_mm.safe_checkpoints"])))\n'
    'import importlib; importlib.import_module("autonl_mm.safe_checkpoints")'])
def test_one_call_or_one_line_patches_all(how, tmp_path):
    out = run_code(tmp_path / 'patched.py', textwrap.dedent(UNTOUCHED)
                   + 'import autonl_mm\n' + how + textwrap.dedent("""
        after = state()
        changed = [a != b for a, b in zip(before, after)]
        # CheckpointHook stays mmengine's: ours has a name of its own
        assert changed == [True] * 12 + [False, True] or changed == [
            True] * 9 + [False, True, True, False, True], changed
        assert HOOKS.get('autonl_mm.SafeCheckpointHook') is not before[12]
        print('patched')
    """))
    assert 'patched' in out


def test_public_names():
    for name in autonl_mm.__all__:
        assert hasattr(autonl_mm, name)
    assert autonl_mm.__version__.count('.') == 2

# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Everything that a checkpoint may call, with every kind of argument it does not need.

Each test runs in a process of its own, so that one that ends by a signal is seen.
``ROBUSTNESS_COUNT=3000`` tries all of the calls.
"""
import os
import resource
import sys
import time
import traceback
from pathlib import Path

import pytest
import torch
from pickles import (
    CORE,
    EMPTY,
    HISTORY,
    ORDERED,
    Append,
    Build,
    Call,
    Name,
    New,
    Raw,
    SetItem,
    array,
    dtype,
    dump,
    history,
    storage,
    tensor,
    write,
)

from autonl_mm.measure.memory import _status
from autonl_mm.runs.checkpoints import (
    BrokenCheckpointError,
    UnsafeCheckpointError,
    install,
    load_checkpoint,
)

COUNT = int(os.environ.get('ROBUSTNESS_COUNT', 200))
SECONDS = 5
MEMORY = 2**30  # bytes
ONE_CYCLE = 'mmengine.optim.scheduler.param_scheduler.OneCycleParamScheduler'

KINDS = dict(
    none=None, yes=True, number=1, huge=10**10, negative=-1, long=2**70, real=0.5,
    text='O', code='V8', raw=b'abcdefgh', empty=(), shape=(10**10, ), pair=(-2, -4),
    list=[1], texts=['a'], dict=dict(a=1), array=array(), dtype=dtype(),
    tensor=tensor(), storage=storage(), history=history(_log_history=array()),
    buffer=Name(HISTORY), ndarray=Name('numpy.ndarray'),
    getattr=Name('builtins.getattr'), torch_dtype=Name('torch.float32'),
    ordered=ORDERED, set=Call(Name('builtins.set'), ([1], )), method=Call(
        Name('builtins.getattr'), (Name(HISTORY), 'mean')))
# For each callable a good argument for each position, with the kinds that are good
# there too; then the kinds that may follow.
_TENSOR = [(storage(), 'storage'), (0, ''), ((4, ), ''), ((1, ), '')]
_GRAD = [(False, 'yes'), (ORDERED, 'ordered none')]
STAND_INS = {
    'numpy.ndarray': [],
    'numpy.dtype': [('f8', ''), (False, ''), (True, 'yes number')],
    f'{CORE}._reconstruct': [
        (Name('numpy.ndarray'), 'ndarray'), ((0, ), ''), (b'b', '')],
    f'{CORE}.scalar': [(dtype(), 'dtype'), (bytes(8), 'raw')],
    'builtins.bytes': [],
    'builtins.getattr': [(Name(HISTORY), 'buffer'), ('mean', '')],
    HISTORY: [],
    ONE_CYCLE: [],
}
CALLS = {
    **STAND_INS,
    '_codecs.encode': [('a', 'text code'), ('latin1', '')],
    'builtins.bytearray': [(b'a', 'raw')],
    'builtins.set': [([1], 'list texts')],
    'builtins.complex': [(0.5, 'real'), (0.5, 'real')],
    'collections.OrderedDict': [([['a', 1]], '')],
    'collections.Counter': [(dict(a=1), 'dict')],
    'torch.Size': [((2, ), 'empty shape')],
    'torch.device': [('cpu', '')],
    'torch._utils._rebuild_tensor': _TENSOR,
    'torch._utils._rebuild_tensor_v2': _TENSOR + _GRAD,
    'torch._utils._rebuild_tensor_v3': [
        *_TENSOR, *_GRAD, (Name('torch.float32'), 'torch_dtype')],
    'torch._utils._rebuild_parameter': [(tensor(), 'tensor'), *_GRAD],
    'torch.nn.parameter.Parameter': [(tensor(), 'tensor')],
}
FOLLOWS = {'torch.device': 'number'}
# What may have which state. A number and an array are no state of anything.
STATES = dict(ordered='dict', history='dict')
MADE = {**KINDS, 'history': New(Name(HISTORY), ()), 'array': EMPTY, 'dtype': Call(
    Name('numpy.dtype'), ('f8', False, True))}


def bad_calls(calls):
    """All calls with one argument that is wrong or too many."""
    for name, arguments in calls.items():
        good = [value for value, _ in arguments]
        for i, (_, accepted) in enumerate(arguments):
            for kind in set(KINDS) - set(accepted.split()):
                yield Call(Name(name), (*good[:i], KINDS[kind], *good[i + 1:]))
        for kind in set(KINDS) - set(FOLLOWS.get(name, '').split()):
            yield Call(Name(name), (*good, KINDS[kind]))
        yield New(Name(name), tuple(good))
        if not good and name != 'builtins.bytes':
            yield Call(Name(name), ())


def bad_states(made):
    for name in made:
        for kind in set(KINDS) - set(STATES.get(name, '').split()):
            yield Build(MADE[name], KINDS[kind])


def bad_items():
    for name, value in KINDS.items():
        if name not in ('list', 'texts'):
            yield Append(value, 1)
        if name not in ('dict', 'ordered'):
            yield SetItem(value, 0, 1)
    keys = ('none yes number huge negative long real text code raw empty shape pair '
            'torch_dtype')
    for kind in set(KINDS) - set(keys.split()):
        yield SetItem({}, KINDS[kind], 1)


def run_apart(function):
    """Call a function in a process that may not take much memory, and must not die."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            Path('/proc/self/clear_refs').write_text('5')  # the peak from here on
            before = _status('VmRSS')
            limit = _status('VmSize') + MEMORY
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            function()
            assert _status('VmHWM') - before < MEMORY
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert not os.WIFSIGNALED(status), f'ended by signal {os.WTERMSIG(status)}'
    assert os.WEXITSTATUS(status) == 0


def sample(rng, values):
    values = sorted(values, key=repr)
    return rng.sample(values, min(COUNT, len(values)))


def assert_refused(values, path, load, errors):
    for value in values:
        write(path, value)
        start = time.time()
        try:
            result = load(path)
        except errors as e:
            assert len(str(e)) < 2_000 or load is torch.load
        else:
            raise AssertionError(f'{value} gave {type(result)}')
        assert time.time() - start < SECONDS, value


def test_bad_calls(tmp_path, rng, record_property):
    values = sample(rng, [*bad_calls(CALLS), *bad_states(MADE), *bad_items(),
                          *(Call(Name(name), []) for name in CALLS)])
    record_property('figure', f'{len(values)} calls')
    run_apart(lambda: assert_refused(
        values, tmp_path / 'a.pth', load_checkpoint,
        (UnsafeCheckpointError, BrokenCheckpointError)))


@pytest.fixture
def unchecked(monkeypatch):
    """torch.load with our names, and as before it looked at what gets an item."""
    names = torch.serialization.get_safe_globals()
    install()
    unpickler = torch._weights_only_unpickler.Unpickler
    monkeypatch.setattr(unpickler, '_check_set_item_target', lambda *args: None)
    yield
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(names)


def test_stand_ins_alone(tmp_path, rng, unchecked):
    """They refuse in a plain torch.load too."""
    values = [*bad_calls(STAND_INS), *bad_states(['array', 'dtype', 'history'])]
    # as good as a call, and the start of every HistoryBuffer
    values.remove(New(Name('numpy.dtype'), ('f8', False, True)))
    values.remove(New(Name(HISTORY), ()))
    values = sample(rng, values)
    run_apart(lambda: assert_refused(values, tmp_path / 'a.pth', torch.load, Exception))


def test_items_of_arrays(tmp_path, rng, unchecked):
    """Items that a plain torch.load sets do no harm."""

    def load():
        for value in sample(rng, (SetItem(array(), key, item) for key in KINDS.values()
                                  for item in KINDS.values())):
            write(tmp_path / 'a.pth', value)
            try:
                result = torch.load(tmp_path / 'a.pth')
            except Exception:
                continue
            assert result.dtype == float and result.shape == (2, )

    run_apart(load)


def mutate(operations, rng):
    """Some operations changed, cut out or doubled."""
    data = bytearray(operations)
    for _ in range(rng.choice((1, 1, 2, 8))):
        start = rng.randrange(len(data))
        end = min(len(data), start + rng.choice((1, 2, 5, 40)))
        how = rng.randrange(4)
        if how == 0:
            data[start] = rng.randrange(256)
        elif how == 1:
            data[start] = rng.choice(b'(tRb\x81])}N\x88Qhq0as')
        elif how == 2:
            data[end:end] = data[start:end]
        else:
            del data[start:min(end, len(data) - 1)]
    return Raw(bytes(data))


def test_mutated_operations(tmp_path, rng):
    """Pickles that were good, with checksums that fit."""
    good = dump([dict(a=tensor(), b=array()), *KINDS.values(),
                 Call(Name('torch.Size'), ((2, ), ))])

    def load():
        for _ in range(COUNT):
            write(tmp_path / 'a.pth', mutate(good, rng))
            start = time.time()
            try:
                load_checkpoint(tmp_path / 'a.pth')
            except (UnsafeCheckpointError, BrokenCheckpointError):
                pass
            assert time.time() - start < SECONDS

    run_apart(load)

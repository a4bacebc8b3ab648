# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""What a checkpoint may hold loads to the bit; what could do harm is refused."""
import io
import os
import pickle
import random
import threading
import zipfile
from collections import Counter, OrderedDict
from contextlib import suppress
from itertools import permutations

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from pickles import (
    CORE,
    FLOATS,
    HISTORY,
    ORDERED,
    Append,
    Build,
    Call,
    Get,
    Name,
    New,
    Persistent,
    Put,
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

from autonl_mm.runs.checkpoints import (
    BrokenCheckpointError,
    UnsafeCheckpointError,
    allow_list,
    install,
    load_checkpoint,
    pickle_check,
)

NUMERIC, TEXT = '?bhilqBHILQefdgFDG', 'SU'


@pytest.fixture(autouse=True)
def torchs_list():
    """torch's list of names as it was."""
    before = torch.serialization.get_safe_globals()
    yield
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(before)


def arrays():
    for code in NUMERIC + TEXT:
        whole = np.array([0, 1, 2]).astype(code)
        yield from (whole, whole.astype(whole.dtype.newbyteorder('>')), whole[:0],
                    whole[1:2].reshape(()), whole[::2], whole[None, :, None],
                    np.asfortranarray([whole, whole]), np.broadcast_to(whole, (2, 3)))
    yield from (np.array(['aä\U0001f600', '']), np.array([b'x\0y', b'']),
                np.array([np.nan, -0., np.inf]), np.zeros((0, 4)))


def assert_equal(one, two):
    assert type(one) is type(two)
    if isinstance(one, np.ndarray):
        assert one.dtype.str == two.dtype.str and one.shape == two.shape
        assert one.tobytes() == two.tobytes() and one.flags.writeable
        assert one.flags.f_contiguous == two.flags.f_contiguous
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(two)
        for a, b in zip(one, two):
            assert_equal(a, b)
    elif isinstance(one, np.generic):
        assert one.tobytes() == two.tobytes()
    elif isinstance(one, torch.Tensor):
        assert one.dtype == two.dtype and one.stride() == two.stride()
        assert one.numpy().tobytes() == two.numpy().tobytes()
    else:
        assert one == two


def save(path, content, era):
    """Content as numpy before 2 (``core``) or since (``_core``) names itself."""
    data = pickle.dumps(content, protocol=2)
    for name in (b'numpy.core.', b'numpy._core.'):
        data = data.replace(name, f'numpy.{era}.'.encode())
    return write(path, Raw(data[2:-1]))


@pytest.mark.parametrize('era', ['core', '_core'])
def test_arrays_scalars_and_dtypes(tmp_path, era):
    content = list(arrays())
    content += [a.flat[0] for a in content if a.size and a.dtype.isnative]
    content += [np.dtype('>f4'), np.dtype('U7'), np.dtype(bool)]
    shared = np.arange(3)
    content += [(shared, dict(a=shared)), OrderedDict(a=[shared])]
    path = save(tmp_path / 'a.pth', content, era)
    loaded = load_checkpoint(path)
    assert_equal(loaded[:-2], pickle.loads(pickle.dumps(content[:-2])))
    (one, deep), ordered = loaded[-2:]
    assert one is deep['a'] is ordered['a'][0] and type(one) is np.ndarray


def test_arrays_of_a_plain_torch_load(tmp_path):
    """They are of a class of ours, and are saved again as numpy's own."""
    install()
    content = list(arrays())
    torch.save(content, tmp_path / 'a.pth')
    loaded = torch.load(tmp_path / 'a.pth', weights_only=True)
    assert all(isinstance(a, np.ndarray) for a in loaded)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert_equal(pickle.loads(pickle.dumps(loaded, protocol)),
                     pickle.loads(pickle.dumps(content)))


def test_random_states_and_plain_data(tmp_path):
    content = [
        random.getstate(), np.random.RandomState(3).get_state(),
        torch.get_rng_state(), Counter({8: 1, 11: 1}), OrderedDict(a=1), {1, 2.5, 'a'},
        set(), b'', b'\0\xff', bytearray(), bytearray(b'a'), 1j, 2**70, -1, None, True,
        float('inf'), 'ä\ud800', torch.Size([2, 0]), torch.device('cpu'), torch.int64,
        torch.device('cuda', 1), {('a', 1): 2, 1.5: 3, np.int64(4): 5}
    ]
    for zipped in (True, False):
        torch.save(content, tmp_path / 'a.pth', _use_new_zipfile_serialization=zipped)
        assert_equal(load_checkpoint(tmp_path / 'a.pth'), content)


def test_tensors(tmp_path):
    base = torch.arange(24.).reshape(4, 6)
    views = [
        base, base.t(), base[1:3, ::2], base[2:2], torch.tensor(3), torch.zeros(0, 5),
        torch.zeros(1).expand(1000), torch.ones(2, 3, 4, 5).to(
            memory_format=torch.channels_last)
    ]
    raw = torch.tensor([0, 1] * 24, dtype=torch.uint8)
    for zipped in (True, False):
        # torch cannot read all its newer types in its old format
        content = views + [
            raw.clone().view(t) for t in pickle_check.DTYPES.values()
            if zipped or t in torch.storage._dtype_to_storage_type_map()]
        torch.save(content, tmp_path / 'a.pth', _use_new_zipfile_serialization=zipped)
        loaded = load_checkpoint(tmp_path / 'a.pth')
        for one, two in zip(loaded, content):
            assert one.dtype == two.dtype and one.shape == two.shape
            assert one.stride() == two.stride()
            assert one.storage_offset() == two.storage_offset()
            assert bytes(one.untyped_storage()) == bytes(two.untyped_storage())
        assert loaded[0].data_ptr() == loaded[1].data_ptr()  # shared as before
    parameter = torch.nn.Parameter(base)
    storages = [raw.untyped_storage(), parameter]
    torch.save(storages, tmp_path / 'a.pth')
    whole, loaded = load_checkpoint(tmp_path / 'a.pth')
    assert bytes(whole) == bytes(storages[0])
    assert type(loaded) is torch.nn.Parameter and torch.equal(loaded, parameter)


def test_tensors_that_share_weights(tmp_path):
    """One storage, seen by more tensors than its size bounds."""
    weight = torch.randn(1000)
    torch.save({str(i): weight.view(1000) for i in range(1000)}, tmp_path / 'a.pth')
    assert torch.equal(load_checkpoint(tmp_path / 'a.pth')['999'], weight)


def test_optimizers(tmp_path):
    parameter = torch.nn.Parameter(torch.ones(3))
    for optimizer in (torch.optim.SGD([parameter], 0.1, momentum=0.9),
                      torch.optim.AdamW([parameter]), torch.optim.RMSprop([parameter])):
        parameter.square().sum().backward()
        optimizer.step()
        torch.save(optimizer.state_dict(), tmp_path / 'a.pth')
        state = load_checkpoint(tmp_path / 'a.pth')
        assert state['param_groups'] == optimizer.state_dict()['param_groups']
        for name, value in optimizer.state_dict()['state'][0].items():
            assert_equal(state['state'][0][name], value)


def test_files_of_the_first_torch(tmp_path):
    """Parameters set their state, and dicts of Python 2 came with their items."""
    data = Call(Name('torch._utils._rebuild_tensor'), (storage(), 0, (4, ), (1, )))
    parameter = Build(Call(Name('torch.nn.parameter.Parameter'), (data, )),
                      (True, False, ORDERED))
    path = write(tmp_path / 'a.pth', Call(
        Name('collections.OrderedDict'), ([['weight', parameter]], )))
    weight = load_checkpoint(path)['weight']
    assert type(weight) is torch.nn.Parameter and weight.requires_grad
    assert weight.detach().numpy().tobytes() == FLOATS


def test_history_buffers(tmp_path):
    buffers = [HistoryBuffer(), HistoryBuffer([1., 2.], [1, 3], max_length=5)]
    torch.save(buffers, tmp_path / 'a.pth')
    install()
    for loaded in (load_checkpoint(tmp_path / 'a.pth'),
                   torch.load(tmp_path / 'a.pth', weights_only=True)):
        assert all(type(b) is HistoryBuffer for b in loaded)
        assert [b.max_length for b in loaded] == [1000000, 5]
        for one, two in zip(loaded, buffers):
            assert_equal(one.data, two.data)
        assert loaded[1].statistics('mean') == 0.75
        loaded[1].update(7, 1)
        torch.save(loaded, tmp_path / 'b.pth')
        assert_equal(load_checkpoint(tmp_path / 'b.pth')[1].data, loaded[1].data)


# What is refused. The file lies about sizes or asks for what could do harm.

HUGE = 10**10
LAUGHS = Raw(b')' + b'q\x01h\x01\x86' * 60)  # (((), ()), ((), ())), ...


def repeat(value, call, count=5000):
    """Many calls for one value of the file."""
    return [Put(value, 1), *[call] * count]


def dtype_state(*changes):
    state = dict(zip(range(8), (3, '<', None, None, None, -1, -1, 0)))
    return Build(Call(Name('numpy.dtype'), ('u8', False, True)),
                 tuple({**state, **dict(changes)}.values()))


OBJECT = Call(Name('numpy.dtype'), ('O', False, True))
UNSAFE = {
    # numpy: bytes of the file as pointers, memory that is not the array's own
    'buffer': Call(Name('numpy.ndarray'), ((1, ), 'u1', b'abcdefgh')),
    'offset': Call(Name('numpy.ndarray'), ((1, ), 'u1', b'abcdefgh', -4)),
    'objects': Call(Name('numpy.ndarray'), ((1, ), 'O')),
    'new array': New(Name('numpy.ndarray'), ((1, ), 'O', b'A' * 8)),
    'shape of a new array': Call(
        Name(f'{CORE}._reconstruct'), (Name('numpy.ndarray'), (HUGE, ), b'b')),
    'array of objects': array((1, ), OBJECT, b'A' * 8),
    'array of structures': array((1, ), dtype_state(
        (2, (OBJECT, (1, ))), (5, 8)), b'A' * 8),
    'array of fields': array((1, ), dtype_state(
        (3, ('a', )), (4, dict(a=(OBJECT, 0))), (5, 8)), b'A' * 8),
    'dtype of fields': Call(Name('numpy.dtype'), ([('a', 'O')], False, True)),
    'dtype with commas': Call(Name('numpy.dtype'), ('O,O', False, True)),
    'text of no length': array((HUGE, ), dtype('U0', '<'), b''),
    'negative sizes': array((-2, -4), dtype('u1', '|'), bytes(8)),
    'too few bytes': array((100, ), dtype(), bytes(8)),
    'sizes that overflow': array((2**62, 4), dtype('u1', '|'), b''),
    'no text': array((1, ), dtype('U1', '<', 4), b'\xff' * 4),
    'scalar of objects': Call(Name(f'{CORE}.scalar'), (OBJECT, b'A' * 8)),
    'state set again': Build(array(), (1, (1, ), dtype('u1', '|'), False, b'a')),
    # Python
    'bytearray': Call(Name('builtins.bytearray'), (HUGE, )),
    'bytearray of Python 2': Call(Name('__builtin__.bytearray'), (HUGE, )),
    'bytes': Call(Name('builtins.bytes'), (HUGE, )),
    'new bytes': New(Name('builtins.bytes'), (HUGE, )),
    'range': Call(Name('builtins.range'), (HUGE, )),
    'codec': Call(Name('_codecs.encode'), ('a', 'idna')),
    'key that takes for ever': SetItem({}, LAUGHS, 1),
    'item that takes for ever': Call(Name('builtins.set'), ([LAUGHS], )),
    'globals': Call(Name('builtins.getattr'), (Call(
        Name('builtins.getattr'), (Name(HISTORY), 'mean')), '__globals__')),
    'method of a dict': Build(ORDERED, dict(items=Name('builtins.getattr'))),
    'default of a function': Build(
        Name('torch._utils._rebuild_tensor_v2'), (None, dict(__defaults__=(1, )))),
    # HistoryBuffer
    'other statistics': history(statistics_methods=dict(mean=Call(
        Name('builtins.getattr'), (Name(HISTORY), 'max')))),
    'new statistics': history(statistics_methods=dict(mode=Call(
        Name('builtins.getattr'), (Name(HISTORY), 'max')))),
    'method of a buffer': history(update=1),
    'history of tensors': history(_log_history=tensor()),
    'buffer without a state': New(Name(HISTORY), ()),
    # torch
    'tensor of a size': Call(Name('torch.FloatTensor'), (HUGE, )),
    'storage of a size': Call(Name('torch.storage.UntypedStorage'), (HUGE, )),
    'new storage': New(Name('torch.storage.UntypedStorage'), (HUGE, )),
    'tensor without data': Call(Name('torch._utils._rebuild_meta_tensor_no_storage'), (
        Name('torch.float32'), (HUGE, ), (1, ), False)),
    'memory of an array': Call(
        Name('torch._utils._rebuild_device_tensor_from_numpy'),
        (array(), Name('torch.float64'), 'cpu', False)),
    'attributes of a tensor': Call(Name('torch._tensor._rebuild_from_type_v2'), (
        Name(HISTORY), Name(HISTORY), (), dict(update=1))),
    'tensor set anew': Build(tensor(), (storage(), 0, (HUGE, ), (1, ))),
    'item of a tensor': SetItem(tensor(), 0, 1),
    'item of an array': SetItem(array(), 0, 1),
    'appended to bytes': Append(Call(Name('builtins.bytearray'), ()), 1),
    'negative size': tensor((-2, )),
    'negative stride': tensor((2, ), (-1, ), 3),
    'negative offset': tensor((1, ), (1, ), -1),
    'hooks': [Call(Name('torch._utils._rebuild_tensor_v2'), (
        storage(), 0, (4, ), (1, ), True, Put(ORDERED, 1))),
        SetItem(Get(1), 1, Name('builtins.getattr'))],
    'operation': Raw(dump('os') + dump('system') + pickle.STACK_GLOBAL),
}
BROKEN = {
    'bytes of one text': repeat('x' * 10**6, Call(
        Name('_codecs.encode'), (Get(1), 'latin1'))),
    'arrays of the same bytes': repeat(bytes(10**6), array(
        (10**6, ), dtype('u1', '|'), Get(1))),
    'sets of one list': repeat(list(range(10**4)), Call(
        Name('builtins.set'), (Get(1), ))),
    'tensor beyond its storage': tensor((HUGE, )),
    'offset beyond its storage': tensor((1, ), (1, ), HUGE),
    'expanded tensor': tensor((10**6, 10**6), (0, 0)),
    'storage beyond its record': tensor((1000, ), of=storage(1000)),
    'storage that overflows': tensor(of=storage(2**62 + 4)),
    'storage of another type': tensor(of=storage(kind='torch.DoubleStorage')),
    'saved id': Persistent(7),
}


def assert_refused(path, error):
    """In little time and memory."""
    before = allow_list.HistoryBuffer._statistics_methods.copy()
    with pytest.raises(error) as info:
        load_checkpoint(path)
    assert str(path) in str(info.value) and len(str(info.value)) < 1000
    assert HistoryBuffer._statistics_methods == before


@pytest.mark.timeout(20)
@pytest.mark.parametrize('kind', UNSAFE)
def test_unsafe_calls(tmp_path, kind):
    assert_refused(write(tmp_path / 'a.pth', UNSAFE[kind]), UnsafeCheckpointError)


@pytest.mark.timeout(20)
@pytest.mark.parametrize('kind', BROKEN)
def test_sizes_that_a_file_cannot_have(tmp_path, kind):
    assert_refused(write(tmp_path / 'a.pth', BROKEN[kind]), BrokenCheckpointError)


def old_format(path, numel, keys, stored=None):
    """torch's format before 1.6 with one storage."""
    value = Persistent(('storage', Name('torch.FloatStorage'), '0', 'cpu', numel, None))
    parts = [pickle.dumps(x, protocol=2) for x in (
        torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {})]
    parts += [b'\x80\x02' + dump(tensor((numel, ), of=value)) + b'.',
              pickle.dumps(keys, protocol=2), (stored or numel).to_bytes(8, 'little')]
    path.write_bytes(b''.join(parts) + bytes(16))
    return path


def test_sizes_in_the_old_format(tmp_path):
    assert load_checkpoint(old_format(tmp_path / 'a.pth', 4, ['0'])).tolist() == [0] * 4
    # a storage that is not read would hold what was in memory
    for bad in ((HUGE, ['0']), (4, []), (4, ['0', '0']), (4, ['1']), (4, None),
                (5, ['0'], 4)):
        assert_refused(old_format(tmp_path / 'a.pth', *bad), BrokenCheckpointError)


@pytest.mark.parametrize('names', permutations(('data.pkl', 'DATA.PKL')))
def test_what_torch_reads_is_checked(tmp_path, names):
    """torch finds a record whatever the case of its name is."""
    contents = dict(zip(names, (dict(a=1), Call(Name('builtins.bytearray'), (5, )))))
    for order in (names, names[::-1]):
        with zipfile.ZipFile(tmp_path / 'a.pth', 'w') as archive:
            for name in order:
                archive.writestr(
                    f'x/{name}', b'\x80\x02' + dump(contents[name]) + b'.')
            archive.writestr('x/version', '3\n')
        with suppress(UnsafeCheckpointError, BrokenCheckpointError):
            assert load_checkpoint(tmp_path / 'a.pth') == dict(a=1)


def test_deep_content(tmp_path):
    depth = 100_000
    path = write(tmp_path / 'a.pth', Raw(b']' * depth + b'a' * (depth - 1)))
    assert_refused(path, BrokenCheckpointError)


def test_no_name_means_another_one_in_python_2():
    """torch translates names of Python 2, and so might read another than we check."""
    reader = pickle_check.Reader(io.BytesIO(), 0)
    for name in reader.names:
        module, _, name = name.rpartition('.')
        assert (module, name) not in torch._utils.NAME_MAPPING
        assert module not in torch._utils.IMPORT_MAPPING


def test_torchs_list_is_left_as_it_was(tmp_path):
    """Loading takes nothing from it, and what others put there does not count."""
    torch.save(dict(a=np.arange(3), b=HistoryBuffer([1.], [1])), tmp_path / 'a.pth')
    install()
    theirs = [np.ndarray, np.dtype, os.system, (np.zeros(1).__reduce__()[0],
                                                f'{CORE}._reconstruct')]
    torch.serialization.add_safe_globals(theirs)
    before = set(torch.serialization.get_safe_globals())
    for _ in range(2):
        assert type(load_checkpoint(tmp_path / 'a.pth')['a']) is np.ndarray
        assert set(torch.serialization.get_safe_globals()) == before


def test_threads(tmp_path):
    """torch's list is one for the whole process."""
    torch.save([np.arange(3)] * 100, tmp_path / 'a.pth')
    errors = []

    def load():
        try:
            for _ in range(20):
                load_checkpoint(tmp_path / 'a.pth')
        except Exception as e:
            errors.append(e)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors

# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Pickles written operation by operation, as someone who attacks would write them."""
import pickle
import struct
import zipfile
from typing import Any, NamedTuple

HISTORY = 'mmengine.logging.history_buffer.HistoryBuffer'
CORE = 'numpy._core.multiarray'
FLOATS = bytes(range(16))  # content of the storage '0'


class Name(NamedTuple):
    """What the file asks for, such as ``builtins.getattr``."""
    name: str


class Call(NamedTuple):
    """The operation REDUCE."""
    func: Any
    args: Any


class New(NamedTuple):
    """The operation NEWOBJ."""
    cls: Any
    args: Any


class Build(NamedTuple):
    """The operation BUILD."""
    made: Any
    state: Any


class SetItem(NamedTuple):
    """The operation SETITEM."""
    made: Any
    key: Any
    value: Any


class Append(NamedTuple):
    """The operation APPEND."""
    made: Any
    item: Any


class Persistent(NamedTuple):
    """The operation BINPERSID."""
    saved_id: Any


class Put(NamedTuple):
    """Remember a value."""
    value: Any
    index: int


class Get(NamedTuple):
    """What was remembered."""
    index: int


class Raw(NamedTuple):
    """Operations as they are."""
    operations: bytes


def dump(value) -> bytes:
    """Operations that leave a value on the stack.

    Args:
        value (Any): Of plain Python types and of the classes above.
    """
    if isinstance(value, Raw):
        return value.operations
    if isinstance(value, Name):
        module, _, name = value.name.rpartition('.')
        return f'c{module}\n{name}\n'.encode()
    if isinstance(value, Put):
        return dump(value.value) + pickle.LONG_BINPUT + struct.pack('<I', value.index)
    if isinstance(value, Get):
        return pickle.LONG_BINGET + struct.pack('<I', value.index)
    for kind, operation in ((Call, pickle.REDUCE), (New, pickle.NEWOBJ),
                            (Build, pickle.BUILD), (SetItem, pickle.SETITEM),
                            (Append, pickle.APPEND), (Persistent, pickle.BINPERSID)):
        if isinstance(value, kind):
            return b''.join(map(dump, value)) + operation
    if isinstance(value, tuple):
        return b'(' + b''.join(map(dump, value)) + pickle.TUPLE
    if isinstance(value, list):
        return b'](' + b''.join(map(dump, value)) + pickle.APPENDS
    if isinstance(value, dict):
        items = (dump(key) + dump(item) for key, item in value.items())
        return b'}(' + b''.join(items) + pickle.SETITEMS
    if isinstance(value, bytes):
        return dump(Call(Name('_codecs.encode'), (value.decode('latin1'), 'latin1')))
    return pickle.dumps(value, protocol=2)[2:-1]  # a number, a text, None


def write(path, value, **records) -> str:
    """A checkpoint in torch's format with a value of :func:`dump`.

    Args:
        path (Path): The file.
        value (Any): Its content.
        records (dict[str, bytes]): Further storages.
    """
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('x/data.pkl', b'\x80\x02' + dump(value) + b'.')
        archive.writestr('x/byteorder', 'little')
        archive.writestr('x/version', '3\n')
        for key, data in {'0': FLOATS, **records}.items():
            archive.writestr(f'x/data/{key}', data)
    return str(path)


def storage(numel=4, kind='torch.FloatStorage', key='0'):
    return Persistent(('storage', Name(kind), key, 'cpu', numel))


def tensor(size=(4, ), stride=(1, ), offset=0, of=None):
    return Call(Name('torch._utils._rebuild_tensor_v2'),
                (of or storage(), offset, size, stride, False, ORDERED))


def dtype(code='f8', order='<', size=-1):
    return Build(Call(Name('numpy.dtype'), (code, False, True)),
                 (3, order, None, None, None, size, size, 0))


def array(shape=(2, ), of=None, data=bytes(16), fortran=False):
    return Build(EMPTY, (1, shape, of or dtype(), fortran, data))


def history(**state):
    return Build(New(Name(HISTORY), ()), state)


ORDERED = Call(Name('collections.OrderedDict'), ())
EMPTY = Call(Name(f'{CORE}._reconstruct'), (Name('numpy.ndarray'), (0, ), b'b'))

# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Checks the pickles of a checkpoint before torch reads them.

torch's own list has functions that trust their arguments: ``bytearray`` takes a
length, and a tensor may be larger than its storage, which then grows. Setting the
state of a tensor, which needs no function, does the same. So a file of 400 bytes could
take all memory. :class:`Reader` goes through a pickle as torch does, but makes notes of
storages and tensors instead of making them. It refuses forms that torch.save does not
write.
"""
import io
import math
import pickle
import re
from collections import Counter, OrderedDict
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Optional, Union

import numpy as np
import torch

from .allow_list import (
    MAX_NDIM,
    STAND_INS,
    Array,
    DType,
    History,
    Refused,
    describe,
    is_shape,
)
from .archive import MAX_RATIO, SLACK

# pickle's operations that torch's reader knows
OPERATIONS = (
    pickle.PROTO, pickle.STOP, pickle.MARK, pickle.GLOBAL, pickle.NEWOBJ, pickle.REDUCE,
    pickle.BUILD, pickle.APPEND, pickle.APPENDS, pickle.SETITEM, pickle.SETITEMS,
    pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, pickle.NONE,
    pickle.NEWFALSE, pickle.NEWTRUE, pickle.EMPTY_TUPLE, pickle.EMPTY_LIST,
    pickle.EMPTY_DICT, pickle.EMPTY_SET, pickle.BININT, pickle.BININT1, pickle.BININT2,
    pickle.BINFLOAT, pickle.BINUNICODE, pickle.SHORT_BINSTRING, pickle.BINPERSID,
    pickle.BINGET, pickle.LONG_BINGET, pickle.BINPUT, pickle.LONG_BINPUT, pickle.LONG1)
# Bytes per element of the storages that torch.save names
STORAGES = {
    'torch.storage.UntypedStorage': 1, 'torch.DoubleStorage': 8,
    'torch.FloatStorage': 4, 'torch.HalfStorage': 2, 'torch.BFloat16Storage': 2,
    'torch.LongStorage': 8, 'torch.IntStorage': 4, 'torch.ShortStorage': 2,
    'torch.CharStorage': 1, 'torch.ByteStorage': 1, 'torch.BoolStorage': 1,
    'torch.ComplexDoubleStorage': 16, 'torch.ComplexFloatStorage': 8
}
# Without quantised types and types of less than a byte, of which torch makes no tensors
DTYPES = {
    str(t): t for t in vars(torch).values() if isinstance(t, torch.dtype) and re.match(
        r'torch\.(bool|u?int(8|16|32|64)$|b?float|complex)', str(t))
}
SCALARS = (type(None), bool, int, float, complex, str, bytes, np.generic, torch.dtype)
REFERENCE = 64  # bytes that a set or a dict needs for an item, roughly


class StorageType(NamedTuple):
    """A name of :data:`STORAGES`."""
    itemsize: int


class Storage(NamedTuple):
    """Bytes of the file."""
    numel: int
    itemsize: int


class Tensor:
    """A view of a storage."""


class Parameter(Tensor):
    """Of torch before 0.4, which set its state."""


def as_key(value: Any) -> Any:
    """A value that a dict or a set may have as a key; others may be slow to hash."""
    items = value if type(value) is tuple else (value, )
    if len(items) > MAX_NDIM or not all(isinstance(item, SCALARS) for item in items):
        raise Refused(
            f'it has a key of {type(value).__name__}, which no checkpoint needs')
    return value


class Reader(pickle._Unpickler):
    """Reads one pickle of a checkpoint and makes no tensor of it.

    Args:
        file (BinaryIO): Opened at the start of the pickle.
        size (int): Bytes of the whole checkpoint file, which bound what it may
            declare.

    Raises:
        Refused: By ``load()``, if torch.save would not write this.
        ValueError: By ``load()``, if sizes do not fit each other or the file. A
            damaged pickle may raise any error.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        super().__init__(file, encoding='utf-8')  # torch's
        self.size = size
        self.left = MAX_RATIO * size + SLACK
        self.storages = {}
        self.hooks, self.buffers = [], []
        calls = {
            '_codecs.encode': self.make_encode,
            'builtins.bytearray': self.make_bytearray,
            'builtins.set': self.make_set,
            'builtins.complex': self.make_complex,
            'collections.OrderedDict': self.make_ordered_dict,
            'collections.Counter': self.make_counter,
            'torch.Size': self.make_size,
            'torch.device': self.make_device,
            'torch._utils._rebuild_tensor': self.make_tensor,
            'torch._utils._rebuild_tensor_v2': self.make_tensor_v2,
            'torch._utils._rebuild_tensor_v3': self.make_tensor_v3,
            'torch._utils._rebuild_parameter': self.make_parameter,
            'torch.nn.parameter.Parameter': self.make_old_parameter,
        }
        names = {**STAND_INS, **calls}
        # by identity: an object that a file makes may compare as equal to anything
        self.callables = {id(call): (name, call) for name, call in names.items()}
        self.names = {
            **names,
            **{name: StorageType(n) for name, n in STORAGES.items()},
            **DTYPES,
        }

    def load(self) -> Any:
        result = super().load()
        if any(self.hooks):
            raise Refused('it asks for hooks of a tensor, which could run code')
        if any(type(buffer) is History for buffer in self.buffers):
            raise Refused('it has a HistoryBuffer without a state')
        return result

    def spend(self, count: int) -> None:
        """Note that bytes will be allocated."""
        self.left -= count
        if self.left < 0:
            raise ValueError(f'it declares more than its {self.size:,} bytes can hold')

    # What a file names

    def find_class(self, module: str, name: str) -> Any:
        # torch translates the names of Python 2
        module = 'builtins' if module == '__builtin__' else module
        full_name = f'{module}.{name}'
        if full_name not in self.names:
            raise Refused(
                f'it asks for {repr(full_name[:100])[1:-1]}, which could run code')
        return self.names[full_name]

    def persistent_load(self, saved_id: Any) -> Storage:
        kind, storage_type, key, location, numel, *view = saved_id
        if not (kind == 'storage' and type(storage_type) is StorageType
                and type(key) is str and type(location) is str and type(numel) is int
                and numel >= 0 and view in ([], [None])):
            raise Refused('it asks for a storage in a form that torch.save does not '
                          'write')
        # torch checks that the file has as many bytes
        if key not in self.storages:  # as in torch, the first type counts
            self.spend(numel * storage_type.itemsize)
            self.storages[key] = Storage(numel, storage_type.itemsize)
        return self.storages[key]

    # Functions that a file may call. Any error other than ValueError means: not with
    # these arguments.

    def make_encode(self, text: str, encoding: str) -> bytes:
        if not (type(text) is str and encoding == 'latin1'):
            raise TypeError
        self.spend(len(text))
        return text.encode('latin1')

    def make_bytearray(self, *args) -> bytearray:
        if args and not (type(args[0]) is bytes and len(args) == 1):
            raise TypeError
        self.spend(sum(map(len, args)))
        return bytearray(*args)

    def make_set(self, items: list) -> set:
        if type(items) is not list:
            raise TypeError
        self.spend(REFERENCE * len(items))
        return set(map(as_key, items))

    def make_complex(self, real: float, imaginary: float) -> complex:
        if not type(real) is type(imaginary) is float:
            raise TypeError
        return complex(real, imaginary)

    def make_ordered_dict(self, *args) -> OrderedDict:
        # Python 2 gives the items as a list of lists, Python 3 sets them later
        if args and not (type(args[0]) is list and len(args) == 1):
            raise TypeError
        self.spend(REFERENCE * sum(map(len, args)))
        for key, _ in chain(*args):
            as_key(key)
        return OrderedDict(*args)

    def make_counter(self, *args) -> Counter:
        if args and not (type(args[0]) is dict and len(args) == 1):
            raise TypeError
        self.spend(REFERENCE * sum(map(len, args)))
        return Counter(*args)

    def make_size(self, sizes: tuple) -> torch.Size:
        if not is_shape(sizes):
            raise TypeError
        return torch.Size(sizes)

    def make_device(self, kind: str, *index: int) -> torch.device:
        if not (type(kind) is str
                and all(type(i) is int and 0 <= i < 128 for i in index)):
            raise TypeError
        return torch.device(kind, *index)

    def make_tensor(self, storage: Storage, offset: int, size: tuple,
                    stride: tuple) -> Tensor:
        return self.view(storage, storage.itemsize, offset, size, stride)

    def make_tensor_v2(self, storage: Storage, offset: int, size: tuple, stride: tuple,
                       requires_grad: bool, hooks: Optional[OrderedDict]) -> Tensor:
        self.check_grad(requires_grad, hooks)
        return self.view(storage, storage.itemsize, offset, size, stride)

    def make_tensor_v3(self, storage: Storage, offset: int, size: tuple, stride: tuple,
                       requires_grad: bool, hooks: Optional[OrderedDict],
                       dtype: torch.dtype) -> Tensor:
        self.check_grad(requires_grad, hooks)
        if type(dtype) is not torch.dtype:
            raise TypeError
        return self.view(storage, dtype.itemsize, offset, size, stride)

    def view(self, storage: Storage, itemsize: int, offset: int, size: tuple,
             stride: tuple) -> Tensor:
        if not (type(storage) is Storage and is_shape((offset, )) and is_shape(size)
                and is_shape(stride) and len(size) == len(stride)):
            raise TypeError
        available = storage.numel * storage.itemsize // itemsize
        end = offset
        if 0 not in size:
            end += 1 + sum((n - 1) * step for n, step in zip(size, stride))
        if end > available:
            raise ValueError(f'a tensor asks for element {end - 1:,} of a storage that '
                             f'has {available:,}')
        # An expanded tensor has more elements than its storage, and takes memory for
        # all of them when it is copied.
        numel = math.prod(size)
        if numel > available:
            self.spend(numel * itemsize)
        return Tensor()

    def make_parameter(self, data: Tensor, requires_grad: bool,
                       hooks: Optional[OrderedDict]) -> Tensor:
        self.check_grad(requires_grad, hooks)
        if type(data) is not Tensor:
            raise TypeError
        return Tensor()

    def make_old_parameter(self, data: Tensor) -> Parameter:
        if type(data) is not Tensor:
            raise TypeError
        return Parameter()

    def check_grad(self, requires_grad: bool, hooks: Optional[OrderedDict]) -> None:
        if not (type(requires_grad) is bool
                and (hooks is None or type(hooks) is OrderedDict)):
            raise TypeError
        self.hooks.append(hooks)  # may be filled later

    # pickle's operations that act on objects that a file made

    def load_reduce(self) -> None:
        args, func = self.stack.pop(), self.stack.pop()
        name, call = self.callables.get(id(func), (None, None))
        if call is None or type(args) is not tuple:
            raise Refused(f'it asks for a call of {name or describe(func)} with '
                          f'{describe(args)}, which could run code')
        try:
            self.append(call(*args))
        except (Refused, ValueError):
            raise
        except Exception:
            raise Refused.call(name, args) from None

    def load_newobj(self) -> None:
        args, cls = self.stack.pop(), self.stack.pop()
        if cls is not History or args != ():
            name, _ = self.callables.get(id(cls), (describe(cls), None))
            raise Refused(f'it asks for a new {name}, which could run code')
        self.buffers.append(History.__new__(History))
        self.append(self.buffers[-1])

    def load_build(self) -> None:
        state, made = self.stack.pop(), self.stack[-1]
        if type(made) in (Array, DType, History):
            made.__setstate__(state)
            if type(made) is Array:
                self.spend(made.nbytes)
        elif type(made) is Parameter and type(state) is tuple and len(state) == 3:
            self.check_grad(state[0], state[2])
        elif not (type(made) is OrderedDict and type(state) is dict and all(
                type(key) is str and not hasattr(made, key) for key in state)):
            raise Refused(
                'Can only build arrays, HistoryBuffers and new attributes of an '
                f'OrderedDict, got {describe(made)} and {describe(state)}')

    def load_append(self) -> None:
        self.check_target(self.stack[-2], list)
        super().load_append()

    def load_appends(self) -> None:
        self.check_target(self.metastack[-1][-1], list)
        super().load_appends()

    def load_setitem(self) -> None:
        self.check_target(self.stack[-3], dict, OrderedDict, Counter)
        as_key(self.stack[-2])
        super().load_setitem()

    def load_setitems(self) -> None:
        self.check_target(self.metastack[-1][-1], dict, OrderedDict, Counter)
        for key in self.stack[::2]:
            as_key(key)
        super().load_setitems()

    def check_target(self, target: Any, *types: type) -> None:
        if type(target) not in types:
            raise Refused(f'it sets items of {type(target).__name__}, which could run '
                          'code')

    def load_other(self) -> None:
        raise Refused("it asks for one of pickle's operations that torch.save does not "
                      'write, which could run code')

    dispatch = dict.fromkeys(pickle._Unpickler.dispatch, load_other)
    for code in OPERATIONS:
        dispatch[code[0]] = pickle._Unpickler.dispatch[code[0]]
    dispatch.update({
        pickle.REDUCE[0]: load_reduce, pickle.NEWOBJ[0]: load_newobj,
        pickle.BUILD[0]: load_build, pickle.APPEND[0]: load_append,
        pickle.APPENDS[0]: load_appends, pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems
    })


def check_pickles(path: Union[str, Path], size: int) -> None:
    """Check a checkpoint in either of torch's formats.

    Args:
        path (str or Path): The file; its archive is undamaged.
        size (int): Its bytes.

    Raises:
        Refused: If the file asks for anything that no checkpoint needs.
        ValueError: If the file declares sizes that do not fit. A damaged file may raise
            any error.
    """
    with open(path, 'rb') as file:
        if file.read(1) != pickle.PROTO:
            # torch's own reader finds the records that torch will load
            archive = torch._C.PyTorchFileReader(str(path))
            if archive.has_record('constants.pkl'):
                raise Refused('it asks for TorchScript, which could run code')
            Reader(io.BytesIO(archive.get_record('data.pkl')), size).load()
            return
        file.seek(0)
        for _ in ('magic number', 'version', 'system'):
            Reader(file, size).load()
        reader = Reader(file, size)
        reader.load()
        keys = Reader(file, size).load()
        # a storage that is not read would have the earlier content of the memory
        if type(keys) is not list or sorted(keys) != sorted(reader.storages):
            raise ValueError('its list of storages is not complete')

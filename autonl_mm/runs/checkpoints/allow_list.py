# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Stand-ins for classes and functions that a checkpoint may name beyond torch's list.

A pickle calls a named function with arguments of its choice, and then sets the state of
the result. numpy trusts both: ``numpy.ndarray`` takes a buffer, an offset and a dtype
of objects, so bytes of the file become pointers. Therefore no file reaches a class or
function itself. It gets a stand-in of the same name, which does only the work that the
pickles of numpy and mmengine need. It checks every argument and every state before
numpy sees them.
"""
import math
import pickle
import re
import reprlib
import sys
from typing import Any, Callable

import numpy as np
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler

# Numbers and text, as the pickle of a dtype names them. With text of length zero, an
# array without bytes could have any number of elements.
DTYPE = re.compile(r'b1|[iu][1248]|f(2|4|8|16)|c(8|16|32)|[SU][1-9][0-9]{0,8}')
STATISTICS = ('current', 'max', 'mean', 'min')
MAX_NDIM = 64  # of numpy and torch
MAX_EXTENT = 2**62  # of an array without elements; both multiply in 64 bits


class Refused(pickle.UnpicklingError):
    """A file asks for something that no checkpoint needs."""

    @classmethod
    def call(cls, name: str, args: tuple) -> 'Refused':
        args = ', '.join(map(describe, args[:9]))
        return cls(f'it asks for {name}({args}), which no checkpoint needs and which '
                   'could do harm')


def describe(value: Any) -> str:
    """A short text; the text of a container could be endless."""
    if isinstance(value, (str, bytes, int, float, type(None))):
        return reprlib.repr(value)
    return f'<{type(value).__name__}>'


def is_shape(value: Any) -> bool:
    """Whether a value of a file is a shape that can be counted in 64 bits."""
    return (type(value) is tuple and len(value) <= MAX_NDIM
            and all(type(size) is int and 0 <= size < MAX_EXTENT for size in value)
            and math.prod(size or 1 for size in value) < MAX_EXTENT)


def fits(dtype: Any, data: Any, count: int) -> bool:
    """Whether values of a file are a dtype and the bytes of ``count`` such elements."""
    if not (type(dtype) is DType and type(data) is bytes
            and len(data) == count * dtype.dtype.itemsize):
        return False
    # numpy does not look at the code points of a text until it is used
    return dtype.dtype.kind != 'U' or bool(
        (np.frombuffer(data, f'{dtype.dtype.byteorder}u4') <= sys.maxunicode).all())


def closed(name: str) -> Callable:
    """A stand-in that files may name but not call."""

    def refuse(*args) -> None:
        raise Refused.call(name, args)

    return refuse


NDARRAY = closed('numpy.ndarray')
ONE_CYCLE = closed(OneCycleParamScheduler.__name__)


class DType:
    """Stands in for ``numpy.dtype``; ``dtype`` has numpy's own."""

    def __new__(cls, *args) -> 'DType':
        code = args[0] if args else None
        # neither aligned nor shared
        if not (type(code) is str and DTYPE.fullmatch(code)
                and args[1:] == (False, True)):
            raise Refused.call('numpy.dtype', args)
        self = super().__new__(cls)
        self.dtype = np.dtype(code)
        return self

    def __setstate__(self, state: Any) -> None:
        # version, byte order, subarray, names, fields, size, alignment, flags
        if not (type(state) is tuple and len(state) == 8 and type(state[1]) is str
                and state[1] in tuple('<>=|') and state[2:5] == (None, None, None)
                and state[5] in (-1, self.dtype.itemsize)):
            raise Refused.call('numpy.dtype.__setstate__', (state, ))
        self.dtype = self.dtype.newbyteorder(state[1])


class Array(np.ndarray):
    """What the stand-in for ``_reconstruct`` makes. No file can name this class."""

    def __new__(cls) -> 'Array':
        return super().__new__(cls, 0, np.int8)

    def __setstate__(self, state: Any) -> None:
        # An array that has its bytes keeps them: other arrays may be views of them.
        if not (self.size == 0 and type(state) is tuple and len(state) == 5):
            raise Refused.call('numpy.ndarray.__setstate__', (state, ))
        version, shape, dtype, fortran_order, data = state
        if not (version == 1 and is_shape(shape)
                and fits(dtype, data, math.prod(shape))):
            raise Refused.call('numpy.ndarray.__setstate__', (state, ))
        super().__setstate__((1, shape, dtype.dtype, fortran_order is True, data))

    def __reduce__(self) -> tuple:
        return self.view(np.ndarray).__reduce__()  # saved again it is numpy's own


def reconstruct(*args) -> Array:
    """Stands in for ``numpy.core.multiarray._reconstruct``: an array to be filled."""
    if not (len(args) == 3 and args[0] is NDARRAY and args[1] == (0, )
            and args[2] in (b'b', 'b')):
        raise Refused.call('numpy.core.multiarray._reconstruct', args)
    return Array()


def scalar(*args) -> np.generic:
    """Stands in for ``numpy.core.multiarray.scalar``: a number or a text."""
    if not (len(args) == 2 and fits(*args, 1)):
        raise Refused.call('numpy.core.multiarray.scalar', args)
    return np.frombuffer(args[1], args[0].dtype)[0]


def no_bytes(*args) -> bytes:
    """Stands in for ``bytes``, which pickles call for ``b''`` only."""
    if args:
        raise Refused.call('bytes', args)
    return b''


class History(HistoryBuffer):
    """Stands in for ``HistoryBuffer``, and becomes one when its state is set."""

    def __new__(cls) -> 'History':
        return super().__new__(cls)

    def __init__(self, *args) -> None:
        raise Refused.call('HistoryBuffer', args)

    def __setstate__(self, state: Any) -> None:
        if type(state) is not dict:
            raise Refused.call('HistoryBuffer.__setstate__', (state, ))
        state = dict(state)
        methods = state.pop('statistics_methods', {})
        # mmengine's __setstate__ registers them for all HistoryBuffers
        if not (type(methods) is dict and all(
                name in STATISTICS and method is getattr(HistoryBuffer, name)
                for name, method in methods.items())):
            raise Refused.call('HistoryBuffer.statistics_methods', (methods, ))
        for name, value in state.items():
            if type(name) is not str or hasattr(HistoryBuffer, name):
                raise Refused.call('HistoryBuffer.__setattr__', (name, value))
            if type(value) is Array and value.dtype.kind in 'biuf':
                state[name] = value.view(np.ndarray)
            elif not isinstance(value, (int, float, np.number)):
                raise Refused.call('HistoryBuffer.__setattr__', (name, value))
        self.__class__ = HistoryBuffer
        self.__setstate__(dict(state, statistics_methods=methods))


_METHODS = {
    History: (HistoryBuffer, STATISTICS),
    ONE_CYCLE: (OneCycleParamScheduler, ('_annealing_cos', '_annealing_linear')),
}


def method(*args) -> Callable:
    """Stands in for ``builtins.getattr``.

    HistoryBuffer pickles its statistics methods, and OneCycleLR its annealing
    function, as calls of ``getattr``. With the real ``getattr`` a file could reach
    ``__init__.__globals__``, and from there any code.
    """
    for known, (owner, names) in _METHODS.items():
        if len(args) == 2 and args[0] is known and args[1] in names:
            return getattr(owner, args[1])
    owner = getattr(args[0], '__name__', type(args[0]).__name__) if args else ''
    raise Refused.call('builtins.getattr', (owner, *args[1:]))


def _name(cls: type) -> str:
    return f'{cls.__module__}.{cls.__qualname__}'


STAND_INS = {
    'numpy.ndarray': NDARRAY,
    'numpy.dtype': DType,
    # numpy 2 moved them
    'numpy.core.multiarray._reconstruct': reconstruct,
    'numpy._core.multiarray._reconstruct': reconstruct,
    'numpy.core.multiarray.scalar': scalar,
    'numpy._core.multiarray.scalar': scalar,
    'builtins.bytes': no_bytes,
    'builtins.getattr': method,
    _name(HistoryBuffer): History,
    _name(OneCycleParamScheduler): ONE_CYCLE,
}
# In torch's form. A name in a file always has a dot, so no file can ask for the last
# entry, which torch only needs for setting the state.
SAFE_GLOBALS = [(stand_in, name) for name, stand_in in STAND_INS.items()]
SAFE_GLOBALS.append((Array, 'Array'))


def plain(value: Any, seen: dict) -> Any:
    """Content of a file with numpy's own arrays and dtypes for the stand-ins.

    Args:
        value (Any): The loaded content; its lists and dicts are changed in place.
        seen (dict): Results by the id of the loaded values.

    Returns:
        Any: The content.
    """
    if id(value) in seen:
        return seen[id(value)]
    seen[id(value)] = value  # it may contain itself
    if type(value) is Array:
        seen[id(value)] = value.view(np.ndarray)
    elif type(value) is DType:
        seen[id(value)] = value.dtype
    elif type(value) is tuple:
        seen[id(value)] = tuple([plain(item, seen) for item in value])
    elif type(value) is list:
        value[:] = [plain(item, seen) for item in value]
    elif isinstance(value, dict):
        for key, item in value.items():
            value[key] = plain(item, seen)
        plain(getattr(value, '__dict__', None), seen)  # attributes of an OrderedDict
    return seen[id(value)]

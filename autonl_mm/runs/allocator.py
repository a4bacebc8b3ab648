# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Keep freed memory in the process on glibc.

By default glibc returns each block of several megabytes to the kernel when it is
freed. A network allocates and frees such blocks in every operation. On a CPU, the
page faults of getting them back can take more time than the arithmetic.
"""
import ctypes
import os
import platform

# mallopt's parameters, from glibc's malloc.h
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
SWITCH = 'AUTONL_KEEP_MEMORY'


def keep_freed_memory() -> str:
    """Tell glibc to keep freed memory for the next allocation.

    Call it once, before the first large tensor is made. The environment
    variable ``AUTONL_KEEP_MEMORY=0`` turns it off.

    Returns:
        str: One line for the log, with the setting.
    """
    if os.environ.get(SWITCH, '1') == '0':
        return f'allocator: left as it is ({SWITCH}=0)'
    if platform.libc_ver()[0] != 'glibc':
        return 'allocator: left as it is (this is not glibc)'
    mallopt = ctypes.CDLL(None).mallopt
    done = (
        mallopt(M_MMAP_THRESHOLD, 2**30)
        and mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        and mallopt(M_TOP_PAD, 2**28))
    if not done:
        return 'allocator: left as it is (mallopt refused)'
    return f'allocator: freed memory is kept ({SWITCH}=0 turns this off)'

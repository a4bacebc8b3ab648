# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Turns expected errors of a tool into one line and an exit code."""
import errno
import re
import shlex
import signal
import sys
from contextlib import contextmanager
from typing import Iterator, List, Sequence

import torch.distributed as dist
from mmengine.dist import get_rank

from .checkpoints import BrokenCheckpointError, MismatchError, UnsafeCheckpointError
from .data_checks import mixed_sizes
from .hooks import Stopped

# Errors of the disk and of permissions, not of the program: those of writing, and all
WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
OF_THE_DISK = WRITING | {errno.EACCES, errno.EPERM, errno.EIO}
# torch's error when it makes a batch
MIXED_SIZES = re.compile(r'stack expects each tensor to be equal size, but got '
                         r'(\[.*?\]) at entry \d+ and (\[.*?\]) at entry \d+')
# Errors of libraries that miss an optional package
NOT_INSTALLED = re.compile('not installed|(please|pip) install', re.IGNORECASE)
# Errors of gloo and NCCL when another rank does not answer or has ended
OF_A_RANK = re.compile(r'Timed out|timed? ?out|Connection (closed|reset)|unhandled '
                       r'system error|Broken pipe', re.IGNORECASE)


@contextmanager
def exit_on_error(tool: str) -> Iterator[None]:
    """End the process with one line for errors that the user can mend.

    A run that a signal stopped ends with the command that resumes it, and with status
    130 for Ctrl-C, 143 for SIGTERM and SIGUSR1. Errors of other kinds keep their
    traceback.

    Args:
        tool (str): Name of the tool, such as ``train.py``.
    """
    try:
        yield
    except (BrokenCheckpointError, UnsafeCheckpointError, MismatchError) as e:
        sys.exit(f'{tool}: {e}')
    except Stopped as e:
        if get_rank() == 0:
            print(f'{tool}: {e}. {_saved(e)}', file=sys.stderr, flush=True)
        sys.exit(130 if e.number == signal.SIGINT else 143)
    except KeyboardInterrupt:
        print(f'{tool}: interrupted', file=sys.stderr)
        sys.exit(130)
    except OSError as e:
        if isinstance(e, FileNotFoundError) and e.errno is None:
            sys.exit(f'{tool}: {e}')  # a missing checkpoint or image, by a library
        if e.errno not in OF_THE_DISK:
            raise
        what = ('could not be written. Files that were saved before are complete'
                if e.errno in WRITING else 'could not be read or written')
        sys.exit(f'{tool}: {e.strerror}: {e.filename or "a file"} {what}')
    except (AssertionError, ImportError, RuntimeError) as e:
        if NOT_INSTALLED.search(str(e)):
            sys.exit(f'{tool}: ' + ' '.join(str(e).split()))
        shapes = MIXED_SIZES.search(str(e))
        if shapes:
            sys.exit(f'{tool}: ' + mixed_sizes('a dataloader', *shapes.groups()))
        if not dist.is_initialized() or not OF_A_RANK.search(str(e)):
            raise
        reason = str(e).splitlines()[0][:200]
        sys.exit(f'{tool}: rank {dist.get_rank()} ends, since another rank did not '
                 f'answer in time or has ended ({reason}). --dist-timeout sets how '
                 'long ranks wait; --resume continues from the last checkpoint')


def _saved(error: Stopped) -> str:
    if not error.checkpoint:
        return 'Nothing was saved'
    command = shlex.join(resume_command(sys.argv))
    if dist.is_initialized():
        command = 'the same command with --resume'
    return f'{error.checkpoint} is saved; to resume from it: {command}'


def resume_command(arguments: Sequence[str]) -> List[str]:
    """The command that resumes a run.

    Args:
        arguments (Sequence[str]): The tool and its arguments.

    Returns:
        list[str]: The same command with ``--resume``, in place of a given option.
    """
    command = [a for a in arguments if not a.startswith('--resume=')]
    if '--resume' in command:
        at = command.index('--resume')
        value = command[at + 1:at + 2]
        del command[at:at + 1 + bool(value and not value[0].startswith('-'))]
    return ['python', *command, '--resume']

# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Files that are whole or not there, and the newest whole checkpoint of a run."""
import os
import os.path as osp
import re
import shutil
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, List, Optional, Tuple, Union

from mmengine.dist import get_rank
from mmengine.fileio import LocalBackend

from .config_text import UnsafeCheckpointError
from .loading import BrokenCheckpointError, load_checkpoint


def write_whole(path: Union[str, Path], content: Union[bytes, str]) -> None:
    """Write a file that is whole or as it was before, whatever ends the process.

    A kill leaves at most a ``.tmp`` beside it, which the next call overwrites.

    Args:
        path (str or Path): The file. Folders that are missing are made; a link is
            written through.
        content (bytes or str): Its content; text is written as UTF-8.
    """
    path = osp.realpath(path)
    if isinstance(content, str):
        content = content.encode()
    os.makedirs(osp.dirname(path), exist_ok=True)
    # mmengine's ranks write some files all at once, each the same one
    partial = f'{path}.{get_rank()}.tmp'
    try:
        with open(partial, 'wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


@contextmanager
def whole_folder(path: Union[str, Path]) -> Iterator[Path]:
    """A folder that is whole or as it was before, whatever ends the process.

    Args:
        path (str or Path): The folder; one that is there is replaced.

    Yields:
        Path: An empty folder beside it, to be filled.
    """
    path = Path(path)
    partial, old = (path.with_name(f'{path.name}.{end}') for end in ('tmp', 'old'))
    for left in partial, old:  # by a kill
        shutil.rmtree(left, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if path.exists():
            path.rename(old)
        partial.rename(path)
    finally:
        for left in partial, old:
            shutil.rmtree(left, ignore_errors=True)


class AtomicLocalBackend(LocalBackend):
    """mmengine's local files, written by :func:`write_whole`."""

    name = LocalBackend.__name__  # which callers compare

    def put(self, obj: bytes, filepath: Union[str, Path]) -> None:
        if osp.exists(filepath) and not osp.isfile(filepath):
            return super().put(obj, filepath)  # /dev/stdout, a pipe
        write_whole(filepath, obj)

    def put_text(self,
                 obj: str,
                 filepath: Union[str, Path],
                 encoding: str = 'utf-8') -> None:
        self.put(obj.encode(encoding), filepath)


def _is_complete(path: str) -> bool:
    """Whether there is such a file and it was written to its end."""
    if not osp.isfile(path):
        return False
    try:
        if zipfile.is_zipfile(path):
            zipfile.ZipFile(path).close()  # reads the directory at the end
        else:
            load_checkpoint(path)
    except (BrokenCheckpointError, zipfile.BadZipFile):
        return False
    except UnsafeCheckpointError:
        pass  # complete: it is refused when it is loaded
    return True


def _list_saved(folder: str) -> List[Tuple[int, float, str, str]]:
    """All (number, time, 'epoch' or 'iter', path) in a folder, latest first."""
    saved = []
    for name in os.listdir(folder) if osp.isdir(folder) else ():
        match = re.fullmatch(r'(epoch|iter)_(\d+)\.pth', name)
        if match:
            path = osp.join(folder, name)
            saved.append((int(match[2]), osp.getmtime(path), match[1], path))
    return sorted(saved, reverse=True)


def find_resumable(work_dir: Union[str, Path]) -> Optional[str]:
    """Find the checkpoint from which a run that was stopped goes on.

    It is the one that mmengine noted in ``last_checkpoint``, looked for in
    ``work_dir`` first, as the folder may have been moved, or a later one that a
    kill kept from being noted. Incomplete files are passed over.

    Args:
        work_dir (str or Path): The ``work_dir`` of the run.

    Returns:
        str, optional: The path, or None if there is no checkpoint.
    """
    note = osp.join(work_dir, 'last_checkpoint')
    last = ''
    if osp.isfile(note):
        last = Path(note).read_text(errors='replace').strip()
    if '://' in last:
        return last  # stored remotely, where only whole files appear
    moved = osp.join(work_dir, osp.basename(last))
    if osp.isfile(moved):
        last = moved

    if not _is_complete(last):
        saved = _list_saved(str(work_dir))
    else:
        # Later by number and by time: a former run in the same folder may have
        # got further, and copying changes times.
        saved = _list_saved(osp.dirname(last))
        noted = [entry for entry in saved if entry[3] == last]
        saved = [
            entry for entry in saved for number, time, kind, _ in noted
            if entry[2] == kind and entry[0] > number and entry[1] >= time
        ] + (noted or [(0, 0., '', last)])
    return next((path for *_, path in saved if _is_complete(path)), None)

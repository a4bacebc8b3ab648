# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Files that are written whole, and the newest complete checkpoint of a run."""
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
    """Write a file completely, or leave it as it was.

    This holds whatever ends the process. A kill leaves at most a ``.tmp`` file
    beside the file, which the next call overwrites.

    Args:
        path (str or Path): The file. Missing folders are made. If it is a link, the
            file that it points to is written.
        content (bytes or str): The content; text is written as UTF-8.

    Raises:
        OSError: If the file cannot be written.
    """
    path = osp.realpath(path)
    if isinstance(content, str):
        content = content.encode()
    os.makedirs(osp.dirname(path), exist_ok=True)
    # All ranks of a run write some of mmengine's files, at the same time.
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
    """Write a folder completely, or leave it as it was.

    This holds for errors in the ``with`` block and for a kill, which leaves at most
    hidden folders beside it, such as ``.NAME.tmp``. The next call removes them, or
    renames ``.NAME.old`` back if the kill came between the two renames. Only one
    process may write the same folder at a time.

    Args:
        path (str or Path): The folder. An existing one is replaced.

    Yields:
        Path: An empty folder beside it, to be filled.

    Raises:
        OSError: If the folder cannot be made or renamed.
    """
    path = Path(path)
    partial, old = (path.with_name(f'.{path.name}.{end}') for end in ('tmp', 'old'))
    if old.exists() and not path.exists():
        old.rename(path)
    for left in partial, old:
        shutil.rmtree(left, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if path.exists():
            path.rename(old)
        try:
            partial.rename(path)
        except BaseException:
            if old.exists():
                old.rename(path)
            raise
    finally:
        for left in partial, old:
            shutil.rmtree(left, ignore_errors=True)


class AtomicLocalBackend(LocalBackend):
    """mmengine's local files, written by :func:`write_whole`."""

    name = LocalBackend.__name__  # some callers compare the name

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
    """Whether a file exists and was written to its end."""
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
        pass  # complete, and refused when it is loaded
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
    """Find the checkpoint from which a stopped run continues.

    mmengine writes the path of the newest checkpoint to ``last_checkpoint``. The
    file of that name in ``work_dir`` counts first, because the folder may have been
    moved. A later checkpoint is taken if a kill prevented mmengine from noting it.
    Incomplete files are skipped.

    Args:
        work_dir (str or Path): The ``work_dir`` of the run.

    Returns:
        str, optional: The path, or None if there is no complete checkpoint.
    """
    note = osp.join(work_dir, 'last_checkpoint')
    last = ''
    if osp.isfile(note):
        last = Path(note).read_text(errors='replace').strip()
    if '://' in last:
        return last  # remote storage only has complete files
    moved = osp.join(work_dir, osp.basename(last))
    if osp.isfile(moved):
        last = moved

    if not _is_complete(last):
        saved = _list_saved(str(work_dir))
    else:
        # Both number and time must be later: an earlier run in the same folder may
        # have reached a higher number, and copying changes the times.
        saved = _list_saved(osp.dirname(last))
        noted = [entry for entry in saved if entry[3] == last]
        saved = [
            entry for entry in saved for number, time, kind, _ in noted
            if entry[2] == kind and entry[0] > number and entry[1] >= time
        ] + (noted or [(0, 0., '', last)])
    return next((path for *_, path in saved if _is_complete(path)), None)

# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Paths that are read from files, and what they may lead to."""
import os
import os.path as osp
from pathlib import Path
from typing import Any, List, Optional, Union


def checkpoint_folders(work_dir: Union[str, Path],
                       out_dir: Optional[Union[str, Path]] = None) -> List[str]:
    """The folders in which a run keeps its checkpoints.

    Args:
        work_dir (str or Path): The run's ``work_dir``.
        out_dir (str or Path, optional): ``out_dir`` of its CheckpointHook.
    """
    folders = [str(work_dir)]
    if out_dir is not None:  # as CheckpointHook joins them
        name = osp.basename(str(work_dir).rstrip(os.sep))
        folders.append(osp.join(str(out_dir), name))
    return folders


def is_inside(path: str, folder: str) -> bool:
    """Whether a path leads to something in a folder, after links and ``..``.

    Args:
        path (str): The path; it need not exist. Or a URL.
        folder (str): The folder, which does not lie in itself. Or a URL.
    """
    if '://' in path:  # remote storage has no links
        return ('://' in folder and path.startswith(osp.join(folder, ''))
                and '..' not in path.split('/'))
    try:
        return osp.realpath(path).startswith(osp.join(osp.realpath(folder), ''))
    except ValueError:  # no path at all: it has a null byte
        return False


def own_path(path: Any, folders: List[str]) -> Optional[str]:
    """A path from a file, if it leads to something of the run that reads it.

    A checkpoint or a note may come from elsewhere. What it names is read, replaced
    or removed only if it lies in a folder of the run. A path to another place may be
    from before the run was moved or copied: then the file of that name is taken.

    Args:
        path (Any): What the file has as a path.
        folders (list[str]): The folders of the run, see :func:`checkpoint_folders`.

    Returns:
        str, optional: The path, or None if it is not the run's own.
    """
    if not isinstance(path, str):
        return None
    if any(is_inside(path, folder) for folder in folders):
        return path
    moved = [osp.join(folder, osp.basename(path)) for folder in folders]
    return next((new for new, folder in zip(moved, folders)
                 if is_inside(new, folder) and osp.exists(new)), None)

# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Paths that are read from files, restricted to the folders of a run."""
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
    """Whether a path leads into a folder, after links and ``..`` are resolved.

    Args:
        path (str): The path or URL; it need not exist.
        folder (str): The folder or URL; a folder does not lie in itself.
    """
    if '://' in path:  # remote storage has no links
        return ('://' in folder and path.startswith(osp.join(folder, ''))
                and '..' not in path.split('/'))
    try:
        return osp.realpath(path).startswith(osp.join(osp.realpath(folder), ''))
    except ValueError:  # no path at all: it has a null byte
        return False


def own_path(path: Any, folders: List[str]) -> Optional[str]:
    """A path from a file, if it leads into a folder of the run.

    A checkpoint or a note may come from elsewhere. Files that it names are read,
    replaced or removed only if they lie in a folder of the run. A path to another place
    may be older than a move or copy of the run. Then the file of the same name in a
    folder of the run is used.

    Args:
        path (Any): The path in the file.
        folders (list[str]): The folders of the run, see :func:`checkpoint_folders`.

    Returns:
        str, optional: The path, or None if it does not belong to the run.
    """
    if not isinstance(path, str):
        return None
    if any(is_inside(path, folder) for folder in folders):
        return path
    moved = [osp.join(folder, osp.basename(path)) for folder in folders]
    return next((new for new, folder in zip(moved, folders)
                 if is_inside(new, folder) and osp.exists(new)), None)

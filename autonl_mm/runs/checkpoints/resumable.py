# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The newest complete checkpoint of a run."""
import logging
import os.path as osp
from pathlib import Path
from typing import Optional, Union

from mmengine.logging import print_log

from autonl_mm.runs.own_paths import checkpoint_folders, own_path

from .archive import BrokenCheckpointError, check_file, list_saved
from .config_text import UnsafeCheckpointError
from .loading import load_checkpoint


def is_complete(path: Union[str, Path]) -> bool:
    """Whether a checkpoint exists, was written to its end and is undamaged.

    The fault of an existing file is logged.

    Args:
        path (str or Path): The file.
    """
    if not osp.isfile(path):
        return False
    try:
        if not check_file(path):
            load_checkpoint(path)  # a format without checksums
    except BrokenCheckpointError as e:
        print_log(f'skipped: {e}', 'current', logging.WARNING)
        return False
    except UnsafeCheckpointError:
        pass  # complete, and refused when it is loaded
    return True


def find_resumable(work_dir: Union[str, Path],
                   out_dir: Optional[Union[str, Path]] = None) -> Optional[str]:
    """Find the checkpoint from which a stopped run continues.

    mmengine writes the path of the newest checkpoint to ``last_checkpoint``. This path
    counts if it lies in a folder of the run. If the run was moved or copied, the file
    of the same name in such a folder counts. A later checkpoint is used if a kill
    prevented mmengine from noting it. Incomplete and damaged files are skipped, with a
    line in the log.

    Args:
        work_dir (str or Path): The ``work_dir`` of the run.
        out_dir (str or Path, optional): ``out_dir`` of its CheckpointHook, if the
            checkpoints are elsewhere. Defaults to None.

    Returns:
        str, optional: The path, or None if there is no complete checkpoint.
    """
    note = osp.join(work_dir, 'last_checkpoint')
    last = noted = ''
    if osp.isfile(note):
        noted = Path(note).read_text(errors='replace').strip()
    if noted:
        last = own_path(noted, checkpoint_folders(work_dir, out_dir)) or ''
        if not last:
            print_log(
                f'ignored: {note} names {noted[:200]!r}, which is neither in that '
                "folder nor in CheckpointHook's out_dir", 'current', logging.WARNING)
    if '://' in last:
        return last  # remote storage only has complete files

    if not is_complete(last):
        saved = sorted((s for folder in checkpoint_folders(work_dir, out_dir)
                        for s in list_saved(folder) if s.path != last), reverse=True)
    else:
        # Both number and time must be later: an earlier run in the same folder may
        # have reached a higher number, and copying changes the times.
        saved = list_saved(osp.dirname(last))
        noted = [s for s in saved if s.path == last]
        saved = [
            s for s in saved for n in noted
            if s.kind == n.kind and s.number > n.number and s.time >= n.time
        ]
        if not saved:
            return last
        saved += noted
    return next((s.path for s in saved if is_complete(s.path)), None)

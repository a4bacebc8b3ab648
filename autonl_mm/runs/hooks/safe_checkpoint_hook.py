# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Saving of checkpoints such that at least one always exists."""
import os.path as osp

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from ..own_paths import checkpoint_folders, own_path


class SafeCheckpointHook(CheckpointHook):
    """Removes the oldest checkpoint after the new checkpoint is saved, not before.

    mmengine's own hook removes the oldest checkpoint first. With ``max_keep_ckpts=1``,
    a kill before the new checkpoint is saved leaves no checkpoint. mmengine's hook also
    removes any file that a resumed checkpoint names as the best checkpoint. This hook
    only removes files of the run itself, see :func:`drop_foreign_paths`.
    """

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Forget files that the checkpoint names but that do not belong to the run."""
        if runner._resume:
            drop_foreign_paths(runner, checkpoint)

    def _save_checkpoint_with_step(self, runner, step: int, meta: dict) -> None:
        oldest = None
        if (0 < self.max_keep_ckpts == len(self.keep_ckpt_ids)
                and self.keep_ckpt_ids[-1] != step):
            oldest = self.keep_ckpt_ids.popleft()
        super()._save_checkpoint_with_step(runner, step, meta)
        # A run of the same name in this process may have left this step's number.
        if oldest not in (None, step) and is_main_process():
            path = self.file_backend.join_path(self.out_dir,
                                               self.filename_tmpl.format(oldest))
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)
            elif self.file_backend.isdir(path):  # as DeepSpeed saves
                self.file_backend.rmtree(path)


def drop_foreign_paths(runner: Runner, checkpoint: dict) -> None:
    """Let a checkpoint name only files of the run that resumes from it.

    With ``save_best``, mmengine removes the file or folder that the checkpoint names as
    the best checkpoint. With ``max_keep_ckpts`` it removes files by the numbers in the
    checkpoint. A checkpoint may be of another run and have any content. A path outside
    of the run's checkpoint folders is replaced by the file of the same name in such a
    folder, or dropped with a line in the log. Without its best checkpoint a run also
    forgets the best score, so that the next evaluation gives a new score.

    Args:
        runner (Runner): The run.
        checkpoint (dict): The loaded checkpoint, changed in place.
    """
    hub = checkpoint.get('message_hub') or {}
    info = hub.get('runtime_info') or {}
    folders = [runner.work_dir] + [
        folder for hook in runner.hooks if isinstance(hook, CheckpointHook)
        for folder in checkpoint_folders(runner.work_dir, hook.out_dir)]

    def drop(name: str) -> None:
        for part in info, hub.get('resumed_keys') or {}:
            part.pop(name, None)

    for name in list(info):
        best = f'{name}_'.startswith('best_ckpt_')
        if not best and name != 'last_ckpt':
            continue
        noted, path = info[name], own_path(info[name], folders)
        if path is None or (best and not osp.basename(path).startswith('best_')):
            runner.logger.warning(
                f'resume: {name} of the checkpoint, {str(noted)[:200]!r}, is not of '
                'this run and is ignored')
            drop(name)
            if best:
                drop(name.replace('ckpt', 'score', 1))
        else:
            info[name] = path
    ids = info.get('keep_ckpt_ids', [])
    if not isinstance(ids, list) or not all(type(i) is int for i in ids):
        runner.logger.warning(f'resume: keep_ckpt_ids of the checkpoint, '
                              f'{str(ids)[:200]!r}, is not a list of numbers and is '
                              'ignored')
        drop('keep_ckpt_ids')

# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Saving of checkpoints such that there is always at least one."""
from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook

from autonl_mm.registry import HOOKS


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """Removes the oldest checkpoint after the new one is saved, not before.

    mmengine's own hook removes it first. With ``max_keep_ckpts=1``, a kill before
    the new one is saved leaves no checkpoint.
    """

    def _save_checkpoint_with_step(self, runner, step: int, meta: dict) -> None:
        oldest = None
        if (0 < self.max_keep_ckpts == len(self.keep_ckpt_ids)
                and self.keep_ckpt_ids[-1] != step):
            oldest = self.keep_ckpt_ids.popleft()
        super()._save_checkpoint_with_step(runner, step, meta)
        if oldest is not None and is_main_process():
            path = self.file_backend.join_path(self.out_dir,
                                               self.filename_tmpl.format(oldest))
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)
            elif self.file_backend.isdir(path):  # as DeepSpeed saves
                self.file_backend.rmtree(path)

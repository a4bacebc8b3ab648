# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The list of training images that could not be read."""
import json
import os.path as osp
from typing import Optional

from mmengine.dist import all_gather_object, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..atomic_files import atomic_write
from ..skipped_images import skipped_images

SHOWN = 5
INTERVAL = 1000  # iterations


class SkippedImagesHook(Hook):
    """Count and list the images that :class:`LoadImageOrSkip` left out.

    After each epoch, and every 1,000 iterations of longer epochs and of iteration-based
    loops, a line of the log has the number of these images and the first of them.
    ``skipped_images.json`` in the work dir lists all of them.
    """

    priority = 'LOW'

    def __init__(self):
        self.known = {}

    def after_train_iter(self,
                         runner: Runner,
                         batch_idx: int,
                         data_batch: Optional[dict] = None,
                         outputs: Optional[dict] = None) -> None:
        """Look every 1,000 iterations."""
        if self.every_n_train_iters(runner, INTERVAL):
            self._report(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """Look after the epoch."""
        self._report(runner)

    def _report(self, runner: Runner) -> None:
        found = {}
        for images in all_gather_object(
                skipped_images(runner.train_dataloader.dataset)):
            found.update(images)
        new = [image for image in found if image not in self.known]
        self.known.update(found)
        if not new or not is_main_process():
            return
        path = osp.join(runner.work_dir, 'skipped_images.json')
        atomic_write(path, json.dumps(self.known, indent=1))
        shown = '; '.join(f'{image!r} ({self.known[image]})' for image in new[:SHOWN])
        more = '' if len(new) <= SHOWN else ', ...'
        runner.logger.warning(
            f'{len(self.known)} training images could not be read and are left out, '
            f'{len(new)} of them are new: {shown}{more}. {path} lists all of them')

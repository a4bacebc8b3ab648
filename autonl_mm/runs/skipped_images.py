# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Images that could not be read, collected from all processes that load images."""
import json
import os
import tempfile
import uuid
import weakref
from typing import Any, Dict, Iterator


class SkippedImages:
    """A list of images that every process of a run adds to.

    Worker processes only send batches, so the list is a temporary file. It is removed
    with the object in the process that made it.
    """

    def __init__(self):
        self.path = os.path.join(
            tempfile.gettempdir(), f'autonl_mm-skipped-{uuid.uuid4().hex}')
        weakref.finalize(self, _remove, self.path, os.getpid())

    def add(self, image: str, reason: str) -> None:
        """Add an image, which may be in the list already."""
        line = json.dumps([image, reason]) + '\n'
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:  # one call, so that lines of several processes do not mix
            os.write(file, line.encode())
        finally:
            os.close(file)

    def read(self) -> Dict[str, str]:
        """Reasons by the paths of the images."""
        try:
            with open(self.path) as file:
                return dict(json.loads(line) for line in file)
        except FileNotFoundError:  # none was skipped
            return {}


def _remove(path: str, process: int) -> None:
    # forked processes have a copy of the object
    if os.getpid() == process and os.path.exists(path):
        os.remove(path)


def skipped_images(dataset: Any) -> Dict[str, str]:
    """The images that a dataset's transforms have skipped so far, in all processes.

    Args:
        dataset (Dataset): Possibly inside of wrappers.

    Returns:
        dict[str, str]: Reasons by the paths of the images.
    """
    found = {}
    for transform in find_transforms(dataset):
        if isinstance(getattr(transform, 'skipped', None), SkippedImages):
            found.update(transform.skipped.read())
    return found


def find_transforms(node: Any) -> Iterator[Any]:
    """The transforms of a dataset, of a wrapper or of another transform."""
    for name in ('datasets', 'dataset', 'pipeline', 'transforms', 'subroutines'):
        inner = getattr(node, name, None)
        for item in inner if isinstance(inner, (list, tuple)) else [inner]:
            if item is not None and not isinstance(item, (str, dict)):
                yield item
                yield from find_transforms(item)

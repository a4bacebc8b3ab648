# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Loading that survives a broken picture."""
from typing import Optional

from mmcv.transforms import LoadImageFromFile
from mmengine.logging import print_log

from autonl_mm.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadImageOrSkip(LoadImageFromFile):
    """LoadImageFromFile that names a broken picture.

    Args:
        skip (bool): Whether to log a broken picture and return None, for
            which mmengine's training datasets draw another one. Otherwise it
            is an error. Only for training: in evaluation every picture
            counts. Defaults to True.
        **kwargs: As for :class:`mmcv.transforms.LoadImageFromFile`.

    Raises:
        ValueError: If the picture can't be read and ``skip`` is False.
    """

    def __init__(self, skip: bool = True, **kwargs):
        super().__init__(**kwargs)
        self.skip = skip

    def transform(self, results: dict) -> Optional[dict]:
        """Load ``results['img_path']`` into ``results['img']``, (H, W, C).

        A picture without a path stays as it is: ImageClassificationInferencer
        loads pictures itself, and leaves out mmcv's transform alone.
        """
        if 'img' in results and 'img_path' not in results:
            return results
        path = results['img_path']
        try:
            loaded = super().transform(results)
            # mmcv's readers give nothing or no pixels for some broken files
            good = loaded is not None and loaded['img'].size > 0
            cause = None if good else 'it has no pixels'
        except FileNotFoundError:
            raise
        except Exception as e:  # what a decoder raises is its own affair
            cause = f'{type(e).__name__}: {e}'
        if cause is None:
            return loaded
        message = (f'{path} is not a readable picture ({cause}): replace it '
                   'or remove it from the data')
        if not self.skip:
            raise ValueError(message)
        print_log(f'skipped: {message}', logger='current', level=30)
        return None

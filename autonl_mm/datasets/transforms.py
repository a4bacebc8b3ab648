# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Loading of images that names or skips broken ones."""
from typing import Optional

import mmcv
from mmcv.transforms import LoadImageFromFile
from mmengine.logging import print_log

from autonl_mm.registry import TRANSFORMS
from autonl_mm.runs.skipped_images import SkippedImages


@TRANSFORMS.register_module()
class LoadImageOrSkip(LoadImageFromFile):
    """LoadImageFromFile that names a broken image.

    Args:
        skip (bool): True to log a broken image once and return None, so that
            mmengine's training datasets take another image. False to raise an
            error, for evaluation, where every image counts. Defaults to True.
        **kwargs: Arguments of :class:`mmcv.transforms.LoadImageFromFile`. With
            ``imdecode_backend='turbojpeg'`` the orientation in an image's
            EXIF data is ignored, and PNG and CMYK images cannot be read.

    Raises:
        ValueError: If the image cannot be read and ``skip`` is False, or if
            the decoder is not installed.
    """

    def __init__(self, skip: bool = True, **kwargs):
        super().__init__(**kwargs)
        self.skip = skip
        self.skipped = SkippedImages()
        start_decoder(self.imdecode_backend)

    def transform(self, results: dict) -> Optional[dict]:
        """Load ``results['img_path']`` into ``results['img']``, (H, W, C).

        An image without a path stays as it is: ImageClassificationInferencer
        loads images itself and removes only mmcv's own loading transform.
        """
        if 'img' in results and 'img_path' not in results:
            return results
        path = results['img_path']
        start_decoder(self.imdecode_backend)  # for a spawned worker
        try:
            loaded = super().transform(results)
            # for some broken files mmcv returns None or an empty image
            good = loaded is not None and loaded['img'].size > 0
            cause = None if good else 'it has no pixels'
        except FileNotFoundError:
            raise
        except Exception as e:  # decoders raise errors of many classes
            cause = f'{type(e).__name__}: {e}'
        if cause is None:
            return loaded
        message = (f'{path} is not a readable image ({cause}): replace it '
                   'or remove it from the data')
        if not self.skip:
            raise ValueError(message)
        if path not in self.skipped.read():
            self.skipped.add(path, cause)
            print_log(f'skipped: {message}', logger='current', level=30)
        return None


def start_decoder(name: str) -> None:
    """Start an image decoder; mmcv itself starts only its default one.

    Args:
        name (str): An ``imdecode_backend`` of mmcv.

    Raises:
        ValueError: If the decoder is not installed.
    """
    if name != 'turbojpeg' or mmcv.image.io.jpeg is not None:
        return
    default = mmcv.image.io.imread_backend
    try:
        mmcv.use_backend(name)
    except (ImportError, RuntimeError) as e:
        raise ValueError(
            f'imdecode_backend is {name!r}, which does not start: {e}. It '
            "needs the package PyTurboJPEG and the system's libturbojpeg: "
            "apt-get install libturbojpeg0; pip install 'PyTurboJPEG<2'"
        ) from e
    finally:  # mmcv changes its default even if this fails
        mmcv.use_backend(default)

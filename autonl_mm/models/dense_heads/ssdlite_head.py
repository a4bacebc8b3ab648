# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""SSD's head, so that it predicts with mmdet 3.3.0 too."""
from mmdet.models import SSDHead

from autonl_mm.registry import MODELS


@MODELS.register_module()
class SSDLiteHead(SSDHead):
    """mmdet's SSDHead; for arguments see there.

    mmdet 3.3.0 asks every dense head for ``loss_cls`` when it predicts, and
    SSDHead has none: evaluation and inference of all SSDs end in an
    AttributeError (mmdetection, issue 11780).
    """

    loss_cls = None

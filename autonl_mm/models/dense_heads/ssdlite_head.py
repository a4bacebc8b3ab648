# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""SSD's head, mended for prediction with mmdet 3.3.0."""
from mmdet.models import SSDHead

from autonl_mm.registry import MODELS


@MODELS.register_module()
class SSDLiteHead(SSDHead):
    """mmdet's ``SSDHead``, with the same arguments.

    mmdet 3.3.0 reads ``loss_cls`` of every dense head when it predicts, but
    ``SSDHead`` has no such attribute: evaluation and inference of all SSDs
    raise an AttributeError.
    """

    loss_cls = None

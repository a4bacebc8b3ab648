# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""A config's model that runs an exported model, for evaluation."""
import os.path as osp
from typing import Any, List, Optional, Sequence, Union

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.structures import InstanceData
from torch import Tensor

from autonl_mm.arch import NORMALIZE
from autonl_mm.models.layers import light_nl_scales
from autonl_mm.registry import MODELS

from .engines import load
from .graphs import graph_type
from .graphs.base import Preprocess


@MODELS.register_module()
class EngineModel(BaseModel):
    """An exported model as a config's model.

    It is evaluated with the config's dataloader and evaluator, on the CPU. A detector
    or segmentor of a fixed size pads smaller images at the right and at the bottom.

    Args:
        file (str): Main file of the exported model.
        model (dict): Config of the task model. Its code turns the outputs into
            predictions: logits by the head's or the segmentor's own rule.
        data_preprocessor (dict, optional): The config's preprocessor, to build
            ``model``, and for an exported model without preprocessing. Defaults to
            None.

    Raises:
        ImportError: If the engine is missing.
        FileNotFoundError: If the file does not exist.
        ValueError: If this project did not write the exported model, or its task or
            LightNL's ``normalize`` differ from the config's.
    """

    def __init__(self,
                 file: str,
                 model: dict,
                 data_preprocessor: Optional[dict] = None):
        session = load(file)
        model = MODELS.build(dict(model, data_preprocessor=data_preprocessor
                                  or model.get('data_preprocessor')))
        # The base class only moves samples to the device; image sizes may differ.
        super().__init__(BaseDataPreprocessor() if session.info['preprocess']
                         else model.data_preprocessor)
        self.session = session
        self.model = model
        self.task: str = session.info['task']
        if graph_type(model).task != self.task:
            raise ValueError(f'{file} is for {self.task}, but the config has '
                             f'a {type(model).__name__}')
        self._check_normalize(file, model)
        if self.task == 'segmentation':
            model.encode_decode = self._logits

    def __getattr__(self, name: str) -> Any:
        """Attributes of the task model, which test-time augmentation asks for."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__('model'), name)

    def _check_normalize(self, file: str, model: nn.Module) -> None:
        """Refuse an exported model whose LightNL differs from the config's."""
        found = self.session.info['light_nl_scales']
        expected = light_nl_scales(model)
        if expected and found != expected:
            raise ValueError(
                f'{file} has {_light_nl(found)}, but the config has '
                f'{_light_nl(expected)}: change the config, or export again')

    def forward(self,
                inputs: Union[Tensor, Sequence[Tensor]],
                data_samples: Optional[list] = None,
                mode: str = 'predict') -> list:
        """Predict.

        Args:
            inputs (Tensor | Sequence[Tensor]): Images ``(N, 3, H, W)``, or a
                sequence of ``(3, H, W)``, not normalised.
            data_samples (list, optional): One for each image.
            mode (str): ``'predict'``.

        Returns:
            list: The samples, with predictions.

        Raises:
            ValueError: If ``mode`` is not ``'predict'``.
        """
        if mode != 'predict':
            raise ValueError(f"mode is {mode!r}, expected 'predict': an exported model "
                             'cannot be trained')
        if self.task == 'segmentation':
            if len({x.shape for x in inputs}) > 1:
                return [self.model.predict(x[None], [sample])[0]
                        for x, sample in zip(inputs, data_samples)]
            return self.model.predict(torch.stack(list(inputs)), data_samples)
        if self.task == 'classification':
            logits, = self._run(inputs)
            return self.model.head._get_predictions(logits, data_samples)
        return self.model.add_pred_to_datasample(
            data_samples, [
                self._instances(dets, labels, sample.metainfo)
                for dets, labels, sample in zip(*self._run(inputs),
                                                data_samples)
            ])

    def _run(self, inputs: Union[Tensor, Sequence[Tensor]]) -> List[Tensor]:
        """Outputs for images of one size or of several sizes."""
        if isinstance(inputs, Tensor):
            return self.session(self._pad(inputs))
        if len({x.shape for x in inputs}) == 1:
            return self.session(self._pad(torch.stack(list(inputs))))
        parts = [self.session(self._pad(x[None])) for x in inputs]
        return [torch.cat(outs) for outs in zip(*parts)]

    def _pad(self, images: Tensor) -> Tensor:
        """Pad images ``(N, C, h, w)`` to a fixed size, with the preprocessor's mean."""
        h, w = images.shape[2:]
        height, width = self.session.size[0] or h, self.session.size[1] or w
        # the session refuses other wrong sizes
        if self.task == 'classification' or height < h or width < w:
            return images
        mean = images.new_zeros(images.shape[1], dtype=torch.float)
        preprocess = Preprocess(self.model.data_preprocessor)
        if self.session.info['preprocess'] and preprocess.normalise:
            mean = preprocess.mean.flatten()
            mean = mean.flip(0) if preprocess.flip else mean
        padded = mean.view(1, -1, 1, 1).repeat(len(images), 1, height, width)
        padded[..., :h, :w] = images
        return padded

    def _logits(self, inputs: Tensor, batch_img_metas: List[dict]) -> Tensor:
        """Replaces mmseg's ``encode_decode``."""
        output, = self.session(self._pad(inputs))
        h, w = inputs.shape[2:]
        output = output[..., :h, :w]
        if self.session.outputs == ['labels']:
            count = self.model.out_channels
            if count == 1:  # logits below and above the threshold
                threshold = torch.tensor(self.model.decode_head.threshold).logit()
                return threshold + 2 * output[:, None].float() - 1
            return F.one_hot(output, count).permute(0, 3, 1, 2).float()
        return output

    def _instances(self, dets: Tensor, labels: Tensor, meta: dict) -> InstanceData:
        """Boxes of one image, in pixels of the image file."""
        valid = labels >= 0
        boxes = dets[valid, :4]
        if 'img_shape' in meta and self.model.bbox_head.bbox_coder.clip_border:
            # the exported model clips to the padded image
            h, w = meta['img_shape'][:2]
            boxes = boxes.minimum(boxes.new_tensor([w, h, w, h]))
        scale = dets.new_tensor(meta.get('scale_factor', (1., 1.)))
        return InstanceData(
            bboxes=boxes / scale.repeat(2),
            scores=dets[valid, 4],
            labels=labels[valid])


def _light_nl(words: Sequence[str]) -> str:
    """Description of LightNL for a message, from the metadata's words."""
    found = [value for value, word in NORMALIZE.items() if word in words]
    return f'LightNL with normalize {" and ".join(found)}' if found else 'no LightNL'


def use_exported_model(cfg: Config, file: str) -> None:
    """Replace the config's model by an exported model.

    Logs and results go to a subfolder of the work dir with the file's name.

    Args:
        cfg (Config): The config, changed in place.
        file (str): Main file of the exported model.

    Raises:
        ImportError: If the engine is missing.
        FileNotFoundError: If the file does not exist.
        ValueError: If this project did not write it, or its engine does not run here.
    """
    load(file)  # raises for a bad file before any data are read
    cfg.model = dict(type='autonl_mm.EngineModel', file=file, model=cfg.model)
    cfg.update(load_from=None, resume=False)  # its weights are in the file
    # The runner writes its config there. In the work dir of the training it
    # would replace the config of the model.
    cfg.work_dir = osp.join(cfg.work_dir, osp.splitext(osp.basename(file))[0])

# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""An ONNX file in the place of a task model's network, for evaluation."""
from typing import List, Optional, Sequence, Union

import torch
import torch.nn.functional as F
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.structures import InstanceData
from torch import Tensor

from autonl_mm.registry import MODELS

from .onnx_file import OnnxSession


@MODELS.register_module()
class OnnxModel(BaseModel):
    """What ``tools/deployment/export_onnx.py`` wrote, to be evaluated.

    The config's dataloader feeds it and its evaluator judges it, as the model
    that it was made of; it runs on the CPU.

    Args:
        file (str): The ONNX file.
        model (dict): Config of the task model, whose code makes predictions
            of a segmentor's logits and a detector's boxes.
        data_preprocessor (dict, optional): Not used; it is in the graph.
            Defaults to None.

    Raises:
        ImportError: If onnxruntime is missing.
        FileNotFoundError: If there is no such file.
        ValueError: If the file is none of this project, or of another task
            than the model.
    """

    def __init__(self,
                 file: str,
                 model: dict,
                 data_preprocessor: Optional[dict] = None):
        # It only brings samples to the device; images may differ in size.
        super().__init__(BaseDataPreprocessor())
        self.session = OnnxSession(file)
        self.task: str = self.session.info['task']
        if self.task == 'classification':
            # Its forward pass hands on what it is given, here logits.
            self.model = MODELS.build(dict(type='mmpretrain.ClsHead'))
            return
        model = dict(model, data_preprocessor=data_preprocessor
                     or model.get('data_preprocessor'))
        self.model = MODELS.build(model)
        method = dict(
            segmentation='encode_decode', detection='add_pred_to_datasample')
        if not hasattr(self.model, method[self.task]):
            raise ValueError(f'{file} is for {self.task}, but the config has '
                             f'a {type(self.model).__name__}')
        if self.task == 'segmentation':
            self.model.encode_decode = self._logits

    def forward(self,
                inputs: Union[Tensor, Sequence[Tensor]],
                data_samples: Optional[list] = None,
                mode: str = 'predict') -> list:
        """Predict.

        Args:
            inputs (Tensor | Sequence[Tensor]): Images ``(N, 3, H, W)``, or
                one ``(3, H, W)`` each, not normalised.
            data_samples (list, optional): One an image.
            mode (str): ``'predict'``, nothing else.

        Returns:
            list: The samples, with predictions.
        """
        if mode != 'predict':
            raise ValueError(f'mode is {mode!r}: an ONNX file only predicts')
        if self.task == 'segmentation':
            if not isinstance(inputs, Tensor):
                inputs = torch.stack(list(inputs))
            return self.model.predict(inputs, data_samples)
        if self.task == 'classification':
            logits, = self._run(inputs)
            return self.model.predict((logits, ), data_samples)
        return self.model.add_pred_to_datasample(
            data_samples, [
                self._instances(dets, labels, sample.metainfo)
                for dets, labels, sample in zip(*self._run(inputs),
                                                data_samples)
            ])

    def _run(self, inputs: Union[Tensor, Sequence[Tensor]]) -> List[Tensor]:
        """The session's outputs, of images of one size or of several."""
        if isinstance(inputs, Tensor):
            return self.session(inputs)
        if len({x.shape for x in inputs}) == 1:
            return self.session(torch.stack(list(inputs)))
        parts = [self.session(x[None]) for x in inputs]
        return [torch.cat(outs) for outs in zip(*parts)]

    def _logits(self, inputs: Tensor, batch_img_metas: List[dict]) -> Tensor:
        """In the place of mmseg's encode_decode."""
        output, = self.session(inputs)
        if self.session.outputs == ['labels']:
            count = max(self.model.out_channels, 2)
            return F.one_hot(output, count).permute(0, 3, 1, 2).float()
        return output

    @staticmethod
    def _instances(dets: Tensor, labels: Tensor, meta: dict) -> InstanceData:
        """One image's boxes, in pixels of the file it was loaded from."""
        valid = labels >= 0
        scale = dets.new_tensor(meta.get('scale_factor', (1., 1.)))
        return InstanceData(
            bboxes=dets[valid, :4] / scale.repeat(2),
            scores=dets[valid, 4],
            labels=labels[valid])

# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Predictions for image files, by checkpoints and exported models."""
import copy
import os.path as osp
import uuid
from functools import cached_property
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import mmcv
import numpy as np
import torch
import torch.nn as nn
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.fileio import dump
from mmengine.registry import VISUALIZERS
from mmengine.structures import BaseDataElement

from .export.engines import Session, engine_of
from .export.engines import load as load_session
from .runs.checkpoints import for_predictions, load_checkpoint
from .runs.checkpoints.config_text import config_texts, inference_config, metainfo
from .runs.checkpoints.patches import load_checkpoint_to_model
from .runs.config_parts import leaf_datasets, type_name
from .runs.configs import build_model, input_size, scope_of, visualizer_of
from .runs.dataset_configs import IMAGE_ENDINGS
from .runs.pipelines import remove_annotations

CHECKPOINT_ENDINGS = ('.pth', '.pt', '.ckpt', '.safetensors')
TASKS = dict(mmpretrain='classification', mmdet='detection', mmseg='segmentation')
PathLike = Union[str, Path]


class Predictor:
    """A trained model that predicts for image files.

    The test pipeline of its config reads and resizes them. Images are turned as their
    EXIF data say, and boxes are in pixels of the turned image.

    Args:
        cfg (Config): The config.
        model (nn.Module): Its model, with weights.
        meta (dict): Classes and palette; the config's dataset gives what it lacks.
        size (Sequence[int | None]): Height and width of an exported model, to which
            images are resized if the pipeline sets no size. Defaults to any.

    Raises:
        ValueError: If the config has no test pipeline.
    """

    engine = 'PyTorch'

    def __init__(self, cfg: Config, model: nn.Module, meta: dict,
                 size: Sequence[Optional[int]] = (None, None)):
        _, dataset = next(
            leaf_datasets('', (cfg.get('test_dataloader') or {}).get('dataset')),
            ('', {}))
        steps = copy.deepcopy(dataset.get('pipeline') or cfg.get('test_pipeline'))
        if not steps:
            raise ValueError('the config has no test pipeline, expected '
                             'test_dataloader.dataset.pipeline')
        steps = _with_own_loading(steps)
        meta = {**metainfo(dataset), **meta}
        self.model = model
        self.task = TASKS[scope_of(cfg)]
        try:
            self.size: Sequence[Optional[int]] = input_size(cfg)
        except ValueError:
            self.size = size
            if None not in size:
                steps.insert(1, dict(type='Resize', scale=tuple(size[::-1])))
        self.pipeline = Compose(steps)
        remove_annotations(self.pipeline)
        self.classes: Optional[Sequence[str]] = meta.get('classes')
        # mmengine gives a visualizer of the same name again, with its classes
        self.visualizer = VISUALIZERS.build(dict(
            visualizer_of(cfg), vis_backends=None, name=uuid.uuid4().hex))
        palette = meta.get('palette')
        if isinstance(palette, (list, tuple)):  # or a word; JSON has no tuples
            palette = [tuple(colour) for colour in palette]
        self.visualizer.dataset_meta = dict(classes=self.classes, palette=palette)
        if self.task == 'segmentation':
            # mmseg draws Cityscapes' classes without names and colours
            count = model.num_classes  # of the last head of a cascade
            colours = np.random.RandomState(42).randint(0, 256, (count, 3)).tolist()
            self.visualizer.set_dataset_meta(
                self.classes or [str(i) for i in range(count)],
                palette or colours)
        model.dataset_meta = self.visualizer.dataset_meta

    def __repr__(self) -> str:
        return _description(self.task, self.engine, self.size, self.classes)

    def predict(self, images: Union[PathLike, Sequence[PathLike]], batch_size: int = 1,
                score_thr: Optional[float] = None) -> Union[dict, List[dict]]:
        """Predict.

        Args:
            images (str | Path | Sequence): A file, a folder, or several of them.
            batch_size (int): Images per forward pass. Defaults to 1.
            score_thr (float, optional): Least score of a detector's boxes. Defaults to
                that of the config.

        Returns:
            dict | list[dict]: The prediction for a file; else one for each file, sorted
            in each folder. They have the keys of the codebase's inferencer:
            ``pred_label``, ``pred_score``, ``pred_scores`` and ``pred_class`` of a
            classifier, label and class as lists if it has a multi-label head;
            ``bboxes`` as x1, y1, x2, y2, ``scores``, ``labels`` and, from this project,
            ``classes`` of a detector; ``sem_seg (H, W)`` of a segmentor.

        Raises:
            FileNotFoundError: If a folder has no image.
            ValueError: If an argument is wrong, or an image cannot be read; names it.
        """
        single = isinstance(images, (str, Path))
        files = find_images([images] if single else images)
        results = []
        for _, found in self._samples(list(files), batch_size, score_thr):
            if isinstance(found, Exception):
                raise ValueError(str(found)) from found
            results.append(self._as_dict(found))
        return results[0] if single and not osp.isdir(images) else results

    def write(self, images: Sequence[PathLike], out: PathLike, batch_size: int = 1,
              score_thr: Optional[float] = None) -> Iterator[Tuple[str, Optional[str]]]:
        """Predict, and write ``OUT/vis/NAME.jpg`` and ``OUT/preds/NAME.json``.

        A label map of a segmentor is written as ``OUT/preds/NAME.png``, which its JSON
        file names. NAME is the path in a given folder, without the ending.

        Args:
            images (Sequence[str | Path]): Files and folders.
            out (str | Path): A folder.
            batch_size (int): As for :meth:`predict`.
            score_thr (float, optional): As for :meth:`predict`. Without it, boxes with
                a score above 0.3 are drawn.

        Yields:
            tuple[str, str | None]: Each file, and why it was skipped, or None.

        Raises:
            FileNotFoundError, ValueError: As :meth:`predict`, except for images that
                cannot be read; and if two images have the same NAME.
        """
        names = find_images(images)
        files: Dict[str, str] = {}
        for file, name in names.items():
            if files.setdefault(name, file) != file:
                raise ValueError(f'{files[name]} and {file} would both be written as '
                                 f'{name}: rename one, or run the command for each')
        for file, found in self._samples(list(names), batch_size, score_thr):
            if isinstance(found, Exception):
                yield file, str(found)
                continue
            target = Path(out, 'preds', f'{names[file]}.json')
            target.parent.mkdir(parents=True, exist_ok=True)
            result = self._as_dict(found)
            if self.task == 'segmentation':
                map_file, labels = target.with_suffix('.png'), result['sem_seg']
                # eight bits would wrap a label above 255 around
                kind = np.uint8 if labels.max() < 256 else np.uint16
                mmcv.imwrite(labels.astype(kind), str(map_file))
                result['sem_seg'] = map_file.name
            dump(result, str(target))
            self._draw(file, found, str(Path(out, 'vis', f'{names[file]}.jpg')),
                       0.3 if score_thr is None else score_thr)
            yield file, None

    def _samples(self, files: Sequence[str], batch_size: int, score_thr: Optional[float]
                 ) -> Iterator[Tuple[str, Union[BaseDataElement, Exception]]]:
        """Each file with its sample, or with the reason why it cannot be read."""
        if batch_size < 1:
            raise ValueError(f'batch_size is {batch_size}, expected at least 1')
        if score_thr is not None:
            if self.task != 'detection':
                raise ValueError('a score threshold is for boxes, but the model is for '
                                 f'{self.task}: leave it out')
            if not 0 <= score_thr <= 1:
                raise ValueError(f'the score threshold is {score_thr}, expected a '
                                 'score from 0 to 1')
        for start in range(0, len(files), batch_size):
            batch = []
            for file in files[start:start + batch_size]:
                try:
                    batch.append((file, self.pipeline(dict(img_path=file, img_id=0))))
                except (OSError, ValueError) as e:
                    yield file, e
            # a prediction must not depend on the padding for other images of a batch
            for _, same in groupby(batch, lambda pair: pair[1]['inputs'].shape):
                paths, data = zip(*same)
                try:
                    with torch.no_grad():
                        samples = self.model.test_step(pseudo_collate(data))
                except ValueError as e:  # of a size that the model does not take
                    yield from ((path, ValueError(f'{path}: {e}')) for path in paths)
                    continue
                for path, sample in zip(paths, samples):
                    if score_thr is not None:
                        kept = sample.pred_instances.scores > score_thr
                        sample.pred_instances = sample.pred_instances[kept]
                    yield path, sample.cpu()

    def _as_dict(self, sample: BaseDataElement) -> dict:
        # Methods of the inferencers, which read only classes and model of an object
        if self.task == 'detection':
            from mmdet.apis import DetInferencer
            result = DetInferencer.pred2dict(self, sample)
            if self.classes and 'labels' in result:
                result['classes'] = [self.classes[i] for i in result['labels']]
            return result
        if self.task == 'segmentation':
            return dict(sem_seg=sample.pred_sem_seg.data[0].numpy())
        from mmpretrain import ImageClassificationInferencer
        result, = ImageClassificationInferencer.postprocess(self, [sample], [])
        if hasattr(self.model.head, 'thr'):  # a multi-label head: any number of labels
            labels = result['pred_label'] = sample.pred_label.tolist()
            if self.classes:
                result['pred_class'] = [self.classes[i] for i in labels]
        return dict(result, pred_scores=result['pred_scores'].tolist())

    def _draw(self, file: str, sample: BaseDataElement, out: str,
              score_thr: float) -> None:
        image = np.ascontiguousarray(mmcv.imread(file)[..., ::-1])
        draw = getattr(self.visualizer, 'visualize_cls', None)
        if draw:
            draw(image, sample, draw_gt=False, out_file=out)
            return
        boxes = dict(pred_score_thr=score_thr) if self.task == 'detection' else {}
        self.visualizer.add_datasample(
            file, image, sample, draw_gt=False, out_file=out, **boxes)


class ExportedModel(Session):
    """An exported model, ready to run on the CPU, with arrays or with image files.

    Args:
        file (str | Path): Its main file.
        config (str | Path, optional): The config, for a file without one. Defaults to
            None.

    Attributes:
        predictor (Predictor): For image files. It needs the config's codebase.
    """

    def __init__(self, file: PathLike, config: Optional[PathLike] = None):
        session = load_session(file)
        super().__init__(session.info, session.run)
        self.file, self.config = str(file), config

    def __repr__(self) -> str:
        return _description(self.info['task'], engine_of(self.file).name, self.size,
                            self.info.get('classes'))

    @cached_property
    def predictor(self) -> Predictor:
        cfg = _config_of(self.file, dict(meta=self.info), self.config)
        cfg.model = dict(
            type='autonl_mm.EngineModel', file=self.file, model=cfg.model)
        return Predictor(cfg, build_model(cfg), self.info, self.size)

    def predict(self, *args, **kwargs) -> Union[dict, List[dict]]:
        """See :meth:`Predictor.predict`."""
        return self.predictor.predict(*args, **kwargs)

    def write(self, *args, **kwargs) -> Iterator[Tuple[str, Optional[str]]]:
        """See :meth:`Predictor.write`."""
        return self.predictor.write(*args, **kwargs)


def load(file: PathLike, config: Optional[PathLike] = None,
         device: Optional[str] = None) -> Union[ExportedModel, Predictor]:
    """Load an exported model of any engine, or a checkpoint, to predict.

    An exported model runs on the CPU, in as many threads as torch has when it is
    loaded.

    Args:
        file (str | Path): Main file of a model exported by
            ``tools/deployment/export.py``, or a checkpoint.
        config (str | Path, optional): The config. Defaults to the config in the file.
        device (str, optional): Device of a checkpoint's model. Defaults to the GPU if
            there is one.

    Returns:
        ExportedModel | Predictor: ``predict(path)`` predicts for images. An exported
        model called with images ``(N, C, H, W)`` returns a list of tensors, the same
        for every engine.

    Raises:
        ImportError: If the engine is missing; says what to install.
        FileNotFoundError: If one of its files does not exist.
        BrokenCheckpointError, UnsafeCheckpointError: If the checkpoint cannot be
            loaded.
        MismatchError: If it has weights of another network than the config's.
        ValueError: If this project did not write the exported model, the engine does
            not load it, or the engine cannot run here; or if there is no config.
    """
    if not str(file).endswith(CHECKPOINT_ENDINGS):
        if device not in (None, 'cpu'):
            raise ValueError(f'device is {device!r}, expected cpu for {file}: exported '
                             'models run on the CPU')
        return ExportedModel(file, config)
    content = load_checkpoint(file)
    cfg = _config_of(file, content, config)
    model = build_model(cfg)
    with for_predictions(file):
        load_checkpoint_to_model(model, content)
    model.to(device or ('cuda' if torch.cuda.is_available() else 'cpu'))
    meta = content.get('meta') if isinstance(content, dict) else None
    return Predictor(cfg, model, (meta or {}).get('dataset_meta') or {})


def find_images(paths: Sequence[PathLike]) -> Dict[str, str]:
    """Images in files and folders.

    Args:
        paths (Sequence[str | Path]): Files, which may be missing, and folders.

    Returns:
        dict[str, str]: For each file its path in the given folder without the ending.

    Raises:
        FileNotFoundError: If a folder has no image.
    """
    found = {}
    for path in map(Path, paths):
        if not path.is_dir():
            found[str(path)] = path.stem
            continue
        files = [p for p in sorted(path.rglob('*'))
                 if p.suffix.lower() in IMAGE_ENDINGS]
        if not files:
            raise FileNotFoundError(
                f'{path} has no image ({", ".join(IMAGE_ENDINGS)})')
        found.update({str(p): str(p.relative_to(path).with_suffix('')) for p in files})
    return found


def _config_of(file: PathLike, content: Any, config: Optional[PathLike]) -> Config:
    """The given config, or else the config in a file."""
    if config is not None:
        if not osp.isfile(config):
            raise FileNotFoundError(f'config {str(config)!r} does not exist')
        return Config.fromfile(config)
    if any('SSDLiteHead' in node[key] for _, node, key in config_texts(content)):
        # it needs mmdet, so configs name it in custom_imports, which files do not keep
        import_module('autonl_mm.models.dense_heads.ssdlite_head')
    cfg = inference_config(content, file, own_scope=True)
    if cfg is None:
        raise ValueError(f'{file} has no config: give the config with which it was '
                         'trained')
    return cfg


def _with_own_loading(steps: List[dict]) -> List[dict]:
    """A pipeline that names a broken image, and turns images as EXIF says."""
    first = steps[0]
    if type_name(first) not in ('LoadImageFromFile', 'LoadImageOrSkip'):
        return [dict(type='autonl_mm.LoadImageOrSkip', skip=False), *steps]
    own = {k: first[k] for k in ('to_float32', 'color_type', 'imdecode_backend')
           if first.get(k) not in (None, 'turbojpeg')}
    return [dict(own, type='autonl_mm.LoadImageOrSkip', skip=False), *steps[1:]]


def _description(task: str, engine: str, size: Sequence[Optional[int]],
                 classes: Optional[Sequence[str]]) -> str:
    """What a network is, in a line."""
    names = 'classes without names'
    if classes:
        some = ', '.join(map(str, classes[:5])) + (', ...' if len(classes) > 5 else '')
        names = f'{len(classes)} classes ({some})'
    shape = 'any size' if None in size else '{}x{}'.format(*size)
    return f'{task} with {engine}, images of {shape}, {names}'

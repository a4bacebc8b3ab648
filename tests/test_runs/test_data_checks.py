# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""What is wrong with data, classes and loaders is found before a run, and named."""
import copy
import json
import logging
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import DefaultSampler
from mmengine.registry import DATASETS, MODELS, init_default_scope
from PIL import Image
from tiny_models import CONFIGS
from torch import nn
from torch.utils.data import DataLoader

from autonl_mm.runs.checkpoints import MismatchError
from autonl_mm.runs.data_checks import (
    check_datasets,
    check_loaders,
)
from autonl_mm.runs.hooks import CheckpointClassesHook

BOX = dict(id=1, image_id=1, category_id=1, bbox=[8, 8, 32, 32], area=1024,
           iscrowd=0)


def heads(**classes):
    """A model with nothing but heads."""
    model = nn.Module()
    for name, count in classes.items():
        model.add_module(name, nn.Module())
        model.get_submodule(name).num_classes = count
    return model


class Runner:
    """A runner's datasets and model, and nothing else."""

    def __init__(self, model=None, **datasets):
        self.model = model or nn.Module()
        self.cfg = ConfigDict({
            f'{name}_dataloader': dict(dataset=dataset)
            for name, dataset in datasets.items()})
        self.logger = logging.getLogger('test_data_checks')

    def __getattr__(self, name):
        if not name.endswith('_dataloader'):
            raise AttributeError(name)
        cfg = copy.deepcopy(self.cfg[name].dataset)
        return SimpleNamespace(dataset=DATASETS.build(cfg))


IMAGE = dict(id=1, file_name='1.jpg', width=64, height=64)


def coco(path, annotations=(BOX, ), categories=('cat', 'dog'), classes=('cat', 'dog'),
         images=(IMAGE, ), **dataset):
    """Config of a detector's dataset with one image."""
    path.write_text(json.dumps(dict(
        images=list(images),
        categories=[dict(id=i, name=name)
                    for i, name in enumerate(categories, 1)],
        annotations=list(annotations))))
    return dict(type='CocoDataset', ann_file=str(path), data_prefix=dict(img=''),
                metainfo=dict(classes=list(classes)), **dataset)


@pytest.fixture
def mmdet(scope):
    pytest.importorskip('mmdet.datasets')
    init_default_scope('mmdet')


def error_of(runner, train=True, **kwargs):
    with pytest.raises(ValueError) as error:
        check_datasets(runner, train, **kwargs)
    return str(error.value)


# ---------------------------------------------------------------------- boxes
FILTERS = dict(filtered=dict(filter_cfg=dict(filter_empty_gt=True)),
               unfiltered=dict(test_mode=True))


@pytest.mark.parametrize('how', FILTERS)
def test_annotations_without_boxes(how, mmdet, tmp_path):
    path = tmp_path / 'instances.json'
    check_datasets(Runner(train=coco(path, **FILTERS[how])), train=True)
    message = error_of(Runner(train=coco(path, (), **FILTERS[how])))
    assert 'train_dataloader.dataset' in message and 'instances.json' in message
    assert 'no box' in message or 'is empty' in message


def test_annotations_of_other_classes(mmdet, tmp_path):
    message = error_of(Runner(train=coco(tmp_path / 'a.json', classes=['bird'])))
    assert 'metainfo.classes' in message


def wrappers(good, bad):
    return dict(
        concat=dict(type='ConcatDataset', datasets=[good, bad]),
        repeat=dict(type='RepeatDataset', times=2, dataset=bad),
        mix=dict(type='MultiImageMixDataset', pipeline=[], dataset=bad),
        nested=dict(type='RepeatDataset', times=2, dataset=dict(
            type='ConcatDataset', datasets=[good, bad])))


@pytest.mark.parametrize('how', FILTERS)
@pytest.mark.parametrize('wrapper, place', [
    ('concat', 'dataset.datasets.1'), ('repeat', 'dataset.dataset'),
    ('mix', 'dataset.dataset'), ('nested', 'dataset.dataset.datasets.1')])
def test_of_wrapped_datasets_the_bad_one_is_named(how, wrapper, place, mmdet,
                                                  tmp_path):
    good = coco(tmp_path / 'good.json', **FILTERS[how])
    bad = coco(tmp_path / 'bad.json', (), **FILTERS[how])
    message = error_of(Runner(train=wrappers(good, bad)[wrapper]))
    assert message.startswith(f'train_dataloader.{place} ')
    assert 'bad.json' in message and 'good.json' not in message


# -------------------------------------------------------------------- classes
def folder(root, classes, per_class=2):
    for name in classes:
        (root / name).mkdir(parents=True)
        for i in range(per_class):
            (root / name / f'{i}.jpg').touch()
    return dict(type='mmpretrain.CustomDataset', data_prefix=str(root))


def test_a_class_that_validation_lacks(tmp_path):
    pytest.importorskip('mmpretrain.datasets')
    train = folder(tmp_path / 'train', 'abc')
    check_datasets(Runner(heads(head=3), train=train, val=train), True)
    message = error_of(Runner(
        heads(head=3), train=train, val=folder(tmp_path / 'val', 'ac')))
    assert message.startswith("val_dataloader.dataset has 2 classes ['a', 'c'], but "
                              "train_dataloader.dataset has 3 classes ['a', 'b', 'c'] "
                              "(only train_dataloader.dataset has ['b'])")


@pytest.mark.parametrize('kind', ['CustomDataset', 'HoldoutFolder', 'HoldoutDataset'])
def test_classes_in_another_order_than_the_folders(kind, tmp_path):
    """In training and validation alike, so that no two lists differ."""
    pytest.importorskip('mmpretrain.datasets')

    def named(part, *classes):
        dataset = dict(folder(tmp_path / part, ()), metainfo=dict(classes=classes))
        split = dict(type=f'autonl_mm.{kind}', holdout=1, split='train')
        return dict(
            CustomDataset=dataset, HoldoutFolder={**dataset, **split},
            HoldoutDataset=dict(dataset=dataset, **split))[kind]

    for part in ('train', 'val'):
        folder(tmp_path / part, ('cat', 'dog', 'n01'))

    def both(*classes):
        return Runner(train=named('train', *classes), val=named('val', *classes))

    check_datasets(both('cat', 'dog', 'n01'), True)
    # words for a folder, and for all of them
    check_datasets(both('cat', 'dog', 'a small bird'), True)
    check_datasets(both('Katze', 'Hund', 'Vogel'), True)
    place = 'train_dataloader.dataset' + '.dataset' * (kind == 'HoldoutDataset')
    for classes, words in (
            (('dog', 'cat', 'n01'), "classes[0] is 'dog', but folder 0 of"),
            (('cat', 'a bird', 'dog'), "classes[2] is 'dog', but folder 2 of")):
        message = error_of(both(*classes))
        assert message.startswith(f'{place}.metainfo.{words}')
        assert str(tmp_path / 'train') in message
        assert "['cat', 'dog', 'n01']: give metainfo.classes in this order" in message
    message = error_of(both('cat', 'dog'))
    assert message.startswith('train_dataloader.dataset: The number of subfolders (3)')
    assert 'test_dataloader' in error_of(
        Runner(test=named('val', 'dog', 'cat', 'n01')), train=False)


def test_parts_of_a_concatenation_with_other_classes(tmp_path):
    pytest.importorskip('mmpretrain.datasets')
    parts = [folder(tmp_path / 'one', 'ab'), folder(tmp_path / 'two', 'bc')]
    message = error_of(Runner(train=dict(
        type='ConcatDataset', datasets=parts, ignore_keys=['classes'])))
    assert message.startswith('train_dataloader.dataset.datasets.1 has 2 classes')


def test_heads_of_another_number_of_classes(tmp_path):
    pytest.importorskip('mmpretrain.datasets')
    train = folder(tmp_path / 'train', 'abc')
    message = error_of(Runner(heads(head=10), train=train))
    assert message.startswith('head.num_classes is 10, but train_dataloader.dataset '
                              "has 3 classes ['a', 'b', 'c']")
    assert 'model.head.num_classes=3' in message
    # a region proposal head tells only object and background apart
    check_datasets(Runner(heads(rpn_head=1, head=3), train=train), True)


@pytest.mark.parametrize('categories', [('dog', 'cat'), ('mouse', 'dog', 'cat')])
def test_coco_labels_follow_the_annotation_file(categories, mmdet, tmp_path):
    path = tmp_path / 'a.json'
    check_datasets(Runner(train=coco(path)), True)
    box = dict(BOX, category_id=len(categories))
    message = error_of(Runner(train=coco(path, [box], categories)))
    assert "['cat', 'dog']" in message and "['dog', 'cat']" in message
    assert 'the order differs' in message and 'a.json' in message


def test_a_category_that_the_annotation_file_lacks(mmdet, tmp_path):
    message = error_of(Runner(train=coco(
        tmp_path / 'a.json', classes=('bird', 'cat', 'dog'))))
    assert "has ['bird']" in message


@pytest.mark.parametrize('add', [dict(categories=[1, 2]),
                                 dict(categories=[dict(id=2, name='cat')])])
def test_images_that_have_categories_of_their_own(add, mmdet, tmp_path):
    path = tmp_path / 'a.json'
    check_datasets(Runner(train=coco(path, images=[dict(IMAGE, **add)])), True)
    assert "['dog', 'cat']" in error_of(Runner(train=coco(
        path, [BOX], ('dog', 'cat'), images=[dict(IMAGE, **add)])))


def test_categories_of_one_name(mmdet, tmp_path):
    """A parent may be called as its only child, for example."""
    message = error_of(Runner(train=coco(
        tmp_path / 'a.json', [BOX], ('dog', 'cat', 'dog'))))
    assert message.startswith(
        f"{tmp_path}/a.json has 2 categories of the name 'dog', with the ids [1, 3]")
    # of no importance where the data are not about dogs
    check_datasets(Runner(train=coco(
        tmp_path / 'b.json', [BOX], ('cat', 'dog', 'dog'), ['cat'])), True)


def test_mmseg_classes(tmp_path, scope):
    pytest.importorskip('mmseg.datasets')
    init_default_scope('mmseg')
    dataset = dict(type='BaseSegDataset', data_root=str(tmp_path), lazy_init=False,
                   data_prefix=dict(img_path='', seg_map_path=''), ann_file='a.txt')
    (tmp_path / 'a.txt').write_text('one\n')

    def named(*classes):
        return dict(dataset, metainfo=dict(classes=classes))

    model = heads(decode_head=2, auxiliary_head=2)
    check_datasets(Runner(model, train=named('sky', 'road'), val=named('sky', 'road')),
                   True)
    assert 'the order differs' in error_of(
        Runner(model, train=named('sky', 'road'), val=named('road', 'sky')))
    assert 'model.decode_head.num_classes=3' in error_of(
        Runner(model, train=named('sky', 'road', 'car')))


def masks(root, values):
    """Config of a dataset of three images and masks."""
    for i in range(3):
        mask = np.zeros((8, 8), np.uint8)
        mask[:len(values)] = np.array(values)[:, None]
        for name in 'images', 'masks':
            (root / name).mkdir(exist_ok=True)
            cv2.imwrite(str(root / f'{name}/{i}.png'), mask)
    return dict(type='BaseSegDataset', data_root=str(root), img_suffix='.png',
                data_prefix=dict(img_path='images', seg_map_path='masks'),
                pipeline=[dict(type='LoadAnnotations')])


@pytest.fixture
def mmseg(scope):
    pytest.importorskip('mmseg.datasets')
    init_default_scope('mmseg')


SPLITS = pytest.mark.parametrize('name', ['train', 'val', 'test'])


def error_in(name, root, make, model=None):
    """The error where one of three datasets is bad, which is to be named."""
    for part in ('good', 'bad'):
        (root / part).mkdir()
    datasets = {split: make(root / 'good', False) for split in ('train', 'val', 'test')}
    check_datasets(Runner(model, **datasets), train=name != 'test')
    datasets[name] = make(root / 'bad', True)
    message = error_of(Runner(model, **datasets), train=name != 'test')
    assert message.startswith(f'{name}_dataloader.dataset: ')
    return message


@SPLITS
@pytest.mark.parametrize('classes, reduce, good, bad', [
    ('ab', False, [1, 255], [255]), ('abc', False, [2], [255]), ('ab', True, [2], [1])])
def test_masks_without_a_foreground(name, classes, reduce, good, bad, mmseg, tmp_path):
    """mmseg ignores 255, so that predicting the background has an mIoU of 100."""
    message = error_in(name, tmp_path, lambda root, is_bad: dict(
        masks(root, bad if is_bad else good), reduce_zero_label=reduce,
        metainfo=dict(classes=list(classes))))
    assert str(tmp_path / 'bad/masks') in message
    assert '0 and 255, and 255 is ignored' in message
    assert 'Convert masks of 0 and 255 to 0 and 1; leave reduce_zero_label' in message


def test_a_foreground_may_be_rare(mmseg, tmp_path, monkeypatch, caplog):
    """None of the masks that are looked at has it."""
    monkeypatch.setattr('autonl_mm.runs.sample_checks.MASKS', 2)
    check_datasets(Runner(train=dict(
        masks(tmp_path, [255]), metainfo=dict(classes=['a', 'b']))), train=True)
    assert 'there is no foreground' in caplog.text


@SPLITS
def test_labels_of_masks(name, mmseg, tmp_path):
    message = error_in(name, tmp_path, lambda root, bad: dict(
        masks(root, [1, 7 if bad else 255]), metainfo=dict(classes=['a', 'b'])))
    assert str(tmp_path / 'bad/masks/0.png') in message
    assert 'has labels [7], but the head has classes 0 to 1' in message


@pytest.mark.parametrize('name', ['train', 'val'])
def test_reduce_zero_label_in_one_split(name, mmseg, tmp_path):
    dataset = dict(masks(tmp_path, [1, 2]), metainfo=dict(classes=['a', 'b', 'c']))
    datasets = {split: dict(dataset, reduce_zero_label=split == name)
                for split in ('train', 'val')}
    message = error_of(Runner(**datasets))
    assert f'{name}_dataloader.dataset.reduce_zero_label is True' in message
    assert '.reduce_zero_label is False' in message


@SPLITS
@pytest.mark.parametrize('kind', ['CustomDataset', 'MultiLabelDataset'])
@pytest.mark.parametrize('named', [True, False])
def test_labels_of_images(name, kind, named, scope, tmp_path):
    pytest.importorskip('mmpretrain.datasets')

    def make(root, bad):
        labels = [i + 5 * bad for i in range(10)]
        texts = dict(
            CustomDataset=''.join(f'{i}.png {i}\n' for i in labels),
            MultiLabelDataset=json.dumps(dict(metainfo={}, data_list=[
                dict(img_path=f'{i}.png', gt_label=[i, 5]) for i in labels])))
        file = 'a.txt' if kind == 'CustomDataset' else 'a.json'
        (root / file).write_text(texts[kind])
        names = dict(metainfo=dict(classes=list('abcdefghij'))) if named else {}
        return dict(type=f'mmpretrain.{kind}', data_root=str(root), ann_file=file,
                    **names)

    message = error_in(name, tmp_path, make, heads(head=10))
    assert '10.png has labels [10], but the head has classes 0 to 9' in message


def test_objects_that_are_not_those_of_training(scope, tmp_path):
    """Retrieval is evaluated on labels that no head knows."""
    pytest.importorskip('mmpretrain.datasets')
    (tmp_path / 'a.txt').write_text('a.png 12\n')
    model = type('ImageToImageRetriever', (nn.Module, ), {})()
    model.head = heads(head=10).head
    dataset = dict(type='mmpretrain.CustomDataset', data_root=str(tmp_path),
                   ann_file='a.txt')
    check_datasets(Runner(model, test=dataset), train=False)
    assert 'labels [12]' in error_of(Runner(model, train=dataset))


def picture(path, size, orientation=1):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new('RGB', size).save(path, exif=exif)


def detection(root, size, given, orientation=1, color_type='color', **dataset):
    """Config of a dataset of one image with sizes of file and annotation."""
    picture(root / '1.jpg', size, orientation)
    image = dict(id=1, file_name='1.jpg', width=given[0], height=given[1])
    box = dict(BOX, bbox=[-0.3, 2, 30, 30])
    return dict(
        coco(root / 'a.json', [box], images=[image], **dataset), data_root=str(root),
        pipeline=[dict(type='LoadImageFromFile', color_type=color_type)])


AS_STORED = 'color_ignore_orientation'


@SPLITS
@pytest.mark.parametrize('given, orientation, color_type, words', [
    ((128, 96), 1, 'color', 'scale the boxes; if they fit, correct width and height'),
    ((64, 48), 6, 'color', f"color_type='{AS_STORED}' as it is stored"),
    ((48, 64), 6, AS_STORED, "or by 'color' and imdecode_backend='cv2' upright"),
    ((64, 48), 8, 'color', 'exchange width and height of the annotation')])
def test_images_of_another_size_than_annotated(name, given, orientation, color_type,
                                               words, mmdet, tmp_path):
    upright = (64, 48) if orientation == 1 or color_type == AS_STORED else (48, 64)
    message = error_in(name, tmp_path, lambda root, bad: detection(
        root, (64, 48), given if bad else upright, orientation, color_type))
    assert f'{tmp_path}/bad/1.jpg is loaded with {upright[0]}x{upright[1]}' in message
    assert f'a.json says {given[0]}x{given[1]}: ' in message and words in message


@pytest.mark.parametrize('given, orientation, color_type', [
    ((64, 48), 3, 'color'), ((63, 49), 1, 'color'), ((48, 64), 6, 'color'),
    ((64, 48), 6, AS_STORED)])
def test_sizes_that_pass(given, orientation, color_type, mmdet, tmp_path):
    """Turned by half, rounded, and turned or not as the image is loaded."""
    dataset = detection(tmp_path, (64, 48), given, orientation, color_type)
    check_datasets(Runner(train=dataset), True)


@pytest.mark.parametrize('wrapper, place', [
    ('concat', 'dataset.datasets.1'), ('repeat', 'dataset.dataset'),
    ('nested', 'dataset.dataset.datasets.1'), ('balanced', 'dataset.dataset')])
def test_of_wrapped_datasets_the_one_of_another_size_is_named(wrapper, place, mmdet,
                                                              tmp_path):
    for part in 'one', 'two':
        (tmp_path / part).mkdir()
    good = detection(tmp_path / 'one', (64, 48), (64, 48))
    bad = detection(tmp_path / 'two', (64, 48), (32, 24))
    balanced = dict(type='ClassBalancedDataset', oversample_thr=0.1, dataset=bad)
    message = error_of(Runner(train=dict(
        wrappers(good, bad), balanced=balanced)[wrapper]))
    assert message.startswith(f'train_dataloader.{place}: {tmp_path}/two/1.jpg')


@pytest.mark.parametrize('split', ['train', 'val'])
def test_both_parts_of_a_split_dataset(split, mmseg, tmp_path):
    dataset = dict(masks(tmp_path, [1, 7]), metainfo=dict(classes=['a', 'b']))
    message = error_of(Runner(train=dict(
        type='autonl_mm.HoldoutDataset', holdout=1, split=split, dataset=dataset)))
    assert message.startswith('train_dataloader.dataset.dataset: ')
    assert 'has labels [7]' in message


@SPLITS
def test_masks_of_another_size_than_their_images(name, mmseg, tmp_path):
    def make(root, bad):
        dataset = dict(masks(root, [1, 0]), metainfo=dict(classes=['a', 'b']))
        dataset['pipeline'].insert(0, dict(type='LoadImageFromFile'))
        if bad:
            cv2.imwrite(str(root / 'images/1.png'), np.zeros((16, 8, 3), np.uint8))
        return dataset

    message = error_in(name, tmp_path, make)
    assert f'{tmp_path}/bad/images/1.png is loaded with 8x16' in message
    assert f'its mask {tmp_path}/bad/masks/1.png has 8x8' in message


@pytest.mark.parametrize('values, words', [
    ([0, 1, 255, 255, 255, 255], "1 of the 3 classes: ['c']"),
    ([0, 1, 2, 255, 255, 255, 255, 255],
     '62% pixels of labels that are ignored, [255]'), ([0, 1, 2, 255], None)])
def test_warnings_of_masks(values, words, mmseg, tmp_path, caplog):
    dataset = dict(masks(tmp_path, values), metainfo=dict(classes=list('abc')))
    check_datasets(Runner(test=dataset), False)
    assert len(caplog.records) == bool(words)
    if words:
        assert words in caplog.text
        assert 'test_dataloader.dataset: 3 masks, spread over all, have ' in caplog.text


def test_a_class_without_images(mmdet, tmp_path, caplog):
    check_datasets(Runner(val=coco(tmp_path / 'a.json'),
                          train=coco(tmp_path / 'b.json', [BOX, dict(
                              BOX, id=2, category_id=2)])), True)
    assert len(caplog.records) == 1
    assert "val_dataloader.dataset: 1 images, spread over all, have no label of 1 of " \
        "the 2 classes: ['dog']" in caplog.text


@pytest.mark.parametrize('num_classes', [1, 2])
def test_heads_of_one_output_channel(num_classes, mmseg, tmp_path):
    def model(**loss):
        net = nn.Module()
        net.decode_head = MODELS.build(dict(
            type='FCNHead', in_channels=8, channels=8, num_classes=num_classes,
            out_channels=1, loss_decode=dict(type='CrossEntropyLoss', **loss)))
        return net

    def named(classes):
        return dict(masks(tmp_path, [1]), metainfo=dict(classes=list(classes)))

    for classes in 'a', 'ab':
        check_datasets(Runner(model(use_sigmoid=True), train=named(classes)), True)
    assert 'has 3 classes' in error_of(
        Runner(model(use_sigmoid=True), train=named('abc')))
    message = error_of(Runner(model(), train=named('ab')))
    assert message.startswith('decode_head has one output channel, but its loss is a '
                              'softmax')
    assert 'model.decode_head.loss_decode.use_sigmoid=True' in message
    # what is only evaluated has no loss
    check_datasets(Runner(model(), test=named('ab')), False)


def test_checkpoint_of_other_classes():
    dataset = SimpleNamespace(metainfo=dict(classes=('a', 'c')))
    runner = SimpleNamespace(
        _load_from='epoch_9.pth', test_dataloader=SimpleNamespace(dataset=dataset))

    def load(*classes):
        CheckpointClassesHook().after_load_checkpoint(
            runner, dict(meta=dict(dataset_meta=dict(classes=classes))))

    load('a', 'c')
    load()
    with pytest.raises(MismatchError, match=r"\['a', 'c'\].*epoch_9\.pth.*'b'"):
        load('a', 'b', 'c')


def test_topk_above_the_number_of_classes(tmp_path):
    pytest.importorskip('mmpretrain.datasets')
    runner = Runner(train=folder(tmp_path / 'train', 'abc'))
    for place, evaluator in (
            ('.1', [dict(type='RetrievalRecall', topk=10),
                    dict(type='Accuracy', topk=(1, 5))]),
            ('.metrics', dict(metrics=dict(type='mmpretrain.Accuracy', topk=(1, 5))))):
        runner.cfg.val_evaluator = evaluator
        message = error_of(runner)
        assert message.startswith(f'val_evaluator{place}.topk is (1, 5), but')
        assert f'val_evaluator{place}.topk=(1,)' in message


def test_annotations_that_only_a_server_has(mmdet, tmp_path):
    """Nothing is checked, whatever the form of the evaluator."""
    runner = Runner(test=coco(tmp_path / 'a.json', []))
    assert 'has 1 images but no box' in error_of(runner, train=False)
    metric = dict(type='CocoMetric', format_only=True)
    for evaluator in metric, [metric], dict(type='Evaluator', metrics=[metric]):
        runner.cfg.test_evaluator = evaluator
        check_datasets(runner, train=False)


# ----------------------------------------------------------- labels and loaders
def test_unlabelled_data(tmp_path):
    pytest.importorskip('mmpretrain.datasets')
    test = dict(folder(tmp_path / 'test', 'a'), with_label=False)
    message = error_of(Runner(test=test), train=False)
    assert message.startswith('test_dataloader.dataset has no labels')
    assert '--out FILE.pkl' in message
    check_datasets(Runner(test=test), train=False, labelled=False)


def test_sizes_of_unlabelled_images(mmdet, tmp_path):
    """Predictions do not depend on the sizes that a file of images has."""
    test = detection(tmp_path, (64, 48), (32, 24), test_mode=True)
    assert 'is loaded with 64x48' in error_of(Runner(test=test), train=False)
    check_datasets(Runner(test=test), train=False, labelled=False)


@pytest.mark.parametrize('key, value', [('persistent_workers', True),
                                        ('prefetch_factor', 4)])
def test_settings_of_workers_without_workers(key, value):
    cfg = Config(dict(val_dataloader=dict(num_workers=1, **{key: value})))
    check_loaders(cfg, ['train_dataloader', 'val_dataloader'])
    cfg.val_dataloader.num_workers = 0
    with pytest.raises(ValueError, match=rf'^val_dataloader\.{key} is .*num_workers'):
        check_loaders(cfg, ['val_dataloader'])


class Images(torch.utils.data.Dataset):

    def __init__(self, count):
        from mmpretrain.structures import DataSample
        self.sample = DataSample().set_gt_label(1)
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        np.random.rand()
        return dict(inputs=torch.rand(3, 32, 32), data_samples=self.sample)


def collate(samples):
    return {key: [s[key] for s in samples] for key in samples[0]}


@pytest.mark.parametrize('count, batch_size, drop_last, fits', [
    (9, 4, False, False), (9, 4, True, True), (8, 4, False, True),
    (10, 4, False, True), (4, 1, False, False)])
def test_a_last_batch_of_one_image(count, batch_size, drop_last, fits, scope):
    """A BN behind the pooling sees one value per channel of one image."""
    pytest.importorskip('mmpretrain.models')
    cfg = copy.deepcopy(CONFIGS['classifier'])
    init_default_scope('mmpretrain')
    cfg['model']['neck'] = dict(
        type='LinearNeck', in_channels=64, out_channels=64, gap_dim=2)
    dataset = Images(count)
    loader = DataLoader(dataset, batch_size, drop_last=drop_last,
                        sampler=DefaultSampler(dataset), collate_fn=collate)
    runner = SimpleNamespace(
        cfg=Config(), logger=None, model=MODELS.build(cfg['model']),
        train_dataloader=loader)
    before = [p.clone() for p in runner.model.state_dict().values()]
    states = torch.get_rng_state(), np.random.get_state()[1]
    if fits:
        check_datasets(runner, True)
    else:
        advice = 'drop_last=True' if batch_size > 1 else 'batch_size to 2'
        assert advice in error_of(runner)
    assert all(map(torch.equal, before, runner.model.state_dict().values()))
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all()

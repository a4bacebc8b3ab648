# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Predictions for image files, compared with the codebases' inferencers."""
import copy
import json

import cv2
import numpy as np
import onnx
import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import save_checkpoint
from PIL import Image
from tiny_models import CONFIGS, build

from autonl_mm import predict
from autonl_mm.deploy import load
from autonl_mm.export import export
from autonl_mm.export.engines import ENGINES, Settings
from autonl_mm.export.engines.onnxruntime import set_info
from autonl_mm.inference import Predictor
from autonl_mm.runs.checkpoints import UnsafeCheckpointError
from autonl_mm.runs.checkpoints.config_text import inference_text

PACK = dict(
    mmpretrain=dict(type='PackInputs'),
    mmseg=dict(type='PackSegInputs'),
    mmdet=dict(type='PackDetInputs', meta_keys=(
        'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')))
CLASSES = dict(classifier='ab', segmentor='abc', retinanet='abcd', ssdlite='abcd')
DATASETS = dict(mmpretrain='CustomDataset', mmseg='BaseSegDataset', mmdet='CocoDataset')
VISUALIZERS = dict(mmpretrain='UniversalVisualizer', mmseg='SegLocalVisualizer',
                   mmdet='DetLocalVisualizer')


@pytest.fixture
def photographs(tmp_path):
    """Two images, one of which is turned by EXIF data, and a broken file."""
    squares = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    image = cv2.resize(squares, (150, 100), interpolation=cv2.INTER_NEAREST)
    folder = tmp_path / 'photographs'
    (folder / 'more').mkdir(parents=True)
    cv2.imwrite(str(folder / 'a.png'), image)
    turned = Image.fromarray(image[..., ::-1]).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to display
    turned.save(folder / 'more/b.png', exif=exif)
    (folder / 'broken.jpg').write_bytes(b'no image')
    (folder / 'notes.txt').write_text('no image either')
    return folder


@pytest.fixture
def trained(tmp_path, scope):
    """Makes config, checkpoint with the config in it, and exported model."""

    def make(name):
        cfg = Config(copy.deepcopy(CONFIGS[name]))
        task, classes = cfg.default_scope, list(CLASSES[name])
        resize = dict(type='Resize', scale=(96, 96))
        size = (96, 96)
        if task != 'mmpretrain':
            size, resize['keep_ratio'] = (64, 96), True
        cfg.test_dataloader = dict(dataset=dict(
            type=DATASETS[task], metainfo=dict(classes=classes),
            pipeline=[dict(type='LoadImageFromFile'), resize, PACK[task]]))
        cfg.visualizer = dict(type=VISUALIZERS[task], name='visualizer')
        model = build(cfg)
        cfg.dump(tmp_path / 'config.py')
        meta = dict(classes=classes, palette=[[9 * i, 0, 99] for i in range(4)][
            :len(classes)])
        save_checkpoint(
            dict(state_dict=model.state_dict(), meta=dict(
                dataset_meta=meta, cfg=cfg.pretty_text)), str(tmp_path / 'x.pth'))
        settings = Settings((1, 3, *size), info=dict(meta, cfg=inference_text(cfg)))
        export.write_file(ENGINES['onnxruntime'], export.make_graph(
            copy.deepcopy(model)), settings, tmp_path / 'x.onnx')
        return tmp_path / 'config.py', tmp_path / 'x.pth', tmp_path / 'x.onnx'

    return make


def inferred(name, config, checkpoint, image):
    """The prediction of the codebase's inferencer."""
    if name == 'classifier':
        from mmpretrain import ImageClassificationInferencer
        result, = ImageClassificationInferencer(
            str(config), str(checkpoint), device='cpu')(str(image))
        return {**result, 'pred_scores': result['pred_scores'].tolist()}
    if name == 'segmentor':
        from mmseg.apis import MMSegInferencer
        return MMSegInferencer(
            str(config), str(checkpoint), device='cpu')(str(image))['predictions']
    from mmdet.apis import DetInferencer
    return DetInferencer(str(config), str(checkpoint), device='cpu',
                         show_progress=False)(str(image))['predictions'][0]


def main(capsys, *args):
    """Exit code, output and last line of the command."""
    with pytest.raises(SystemExit) as error:
        predict.main([str(arg) for arg in args])
    return error.value.code, capsys.readouterr().out


@pytest.mark.parametrize('name', ['classifier', 'segmentor', 'retinanet'])
def test_files_of_the_command(name, trained, photographs, tmp_path, capsys):
    """For config and checkpoint, the checkpoint alone and the exported model."""
    config, checkpoint, exported = trained(name)
    code, said = main(capsys, config, '--checkpoint', checkpoint, photographs,
                      '--out', tmp_path / 'out', '--device', 'cpu')
    broken = str(photographs / 'broken.jpg')
    assert code == f'predict: 1 images were skipped: {broken}'
    assert f'skipped: {broken} is not a readable image' in said
    expected = inferred(name, config, checkpoint, photographs / 'a.png')
    for stem in 'a', 'more/b':
        file = tmp_path / f'out/preds/{stem}.json'
        found = json.loads(file.read_text())
        drawn = cv2.imread(str(tmp_path / f'out/vis/{stem}.jpg'))
        assert drawn.shape == (100, 150, 3)
        if name == 'segmentor':
            labels = cv2.imread(str(file.parent / found['sem_seg']), -1)
            assert np.array_equal(labels, expected)
            assert len(np.unique(labels)) > 1
            continue
        classes = found.pop('classes', None)
        assert found == expected
        if classes is not None:
            assert len(classes) > 1
            assert classes == [CLASSES[name][i] for i in found['labels']]
    assert not (tmp_path / 'out/preds/notes.json').exists()

    for file in checkpoint, exported:
        init_default_scope('mmengine')  # a config in a file has its own
        network = load(file, device='cpu')
        for photograph in photographs / 'a.png', photographs / 'more/b.png':
            found = network.predict(photograph)
            if name == 'segmentor':
                assert (found['sem_seg'] == expected).mean() > 0.999
                continue
            for key, value in expected.items():
                if key == 'pred_class':
                    assert found[key] == value
                else:
                    np.testing.assert_allclose(found[key], value, 1e-3, 0.01)


def test_boxes_of_a_score(trained, photographs, tmp_path, capsys):
    """In batches of several images, too."""
    *_, exported = trained('ssdlite')
    network = load(exported)
    assert str(network) == ('detection with onnxruntime, images of 64x96, '
                            '4 classes (a, b, c, d)')
    files = [photographs / 'a.png', photographs / 'more']
    first, second = network.predict(files, batch_size=2)
    assert first == second == network.predict(files[0])
    scores = sorted(first['scores'])
    some = network.predict(files[0], score_thr=scores[len(scores) // 2])
    assert 0 < len(some['scores']) < len(scores) / 2
    assert set(some['scores']) < set(scores)
    for thr, word in ((2, '2, expected'), (-1, '-1, expected')):
        with pytest.raises(ValueError, match=word):
            network.predict(files, score_thr=thr)
    # the command as its own module, without an error
    predict.main([str(exported), *map(str, files), '--out', str(tmp_path / 'out'),
                  '--batch-size', '2', '--score-thr', str(scores[len(scores) // 2])])
    assert json.loads((tmp_path / 'out/preds/b.json').read_text()) == some


def test_without_boxes(trained, photographs):
    config, checkpoint, _ = trained('classifier')
    network = load(checkpoint, config, 'cpu')
    assert str(network) == ('classification with PyTorch, images of 96x96, '
                            '2 classes (a, b)')
    with pytest.raises(ValueError, match='a score threshold is for boxes'):
        network.predict(photographs / 'a.png', score_thr=0.5)
    with pytest.raises(ValueError, match=r'broken\.jpg is not a readable image'):
        network.predict(photographs)


def test_weights_of_another_network(trained, tmp_path, photographs, capsys):
    config, checkpoint, _ = trained('classifier')
    for change, words in (
            (lambda model: model.head.update(num_classes=3), 'have a size mismatch'),
            # the same network without LightNL
            (lambda model: model.backbone.update(arch=[
                line.partition('_nonlocal')[0] for line in model.backbone.arch]),
             'tensors of layers that the model does not have')):
        cfg = Config.fromfile(config)
        change(cfg.model)
        cfg.dump(tmp_path / 'other.py')
        code, _ = main(capsys, tmp_path / 'other.py', '--checkpoint', checkpoint,
                       photographs, '--out', tmp_path / 'out')
        assert 'predict: ' in code and 'x.pth has weights of another network' in code
        assert words in code
        assert not (tmp_path / 'out/preds').exists()


def test_an_image_of_another_size(trained, tmp_path):
    """It is named, and all others are predicted."""
    network = load(trained('classifier')[2]).predictor
    del network.pipeline.transforms[1]  # Resize
    for name, size in ('a', (96, 96)), ('b', (64, 96)), ('c', (96, 96)):
        cv2.imwrite(str(tmp_path / f'{name}.png'), np.zeros((*size, 3), np.uint8))
    files = [str(tmp_path / f'{name}.png') for name in 'abc']
    said = dict(network.write(files, tmp_path / 'out', batch_size=3))
    assert [said[file] is None for file in files] == [True, False, True]
    assert f'{files[1]}: the exported model takes images of 96x96' in said[files[1]]


def test_labels_of_a_multi_label_head(trained, tmp_path, monkeypatch):
    head = dict(type='MultiLabelLinearClsHead', num_classes=2, in_channels=64, thr=0.)
    monkeypatch.setitem(CONFIGS['classifier'], 'model', dict(
        CONFIGS['classifier']['model'], head=head))
    cv2.imwrite(str(tmp_path / 'a.png'), np.zeros((96, 96, 3), np.uint8))
    _, checkpoint, exported = trained('classifier')
    for thr, labels in (0., [0, 1]), (1., []):
        for network in load(checkpoint), load(exported):
            predictor = getattr(network, 'predictor', network)
            predictor.model.head.thr = thr
            found = network.predict(tmp_path / 'a.png')
            assert found['pred_label'] == labels
            assert found['pred_class'] == ['ab'[i] for i in labels]


def test_one_line_for_errors(trained, tmp_path, monkeypatch, capsys):
    _, _, exported = trained('classifier')
    bare = {k: v for k, v in load(exported).info.items() if k != 'cfg'}
    model = onnx.load(exported)
    set_info(model, bare)
    onnx.save(model, tmp_path / 'bare.onnx')
    for folder in 'empty', 'other':
        (tmp_path / folder).mkdir()
    for file in 'a.png', 'other/a.png':
        cv2.imwrite(str(tmp_path / file), np.zeros((8, 8, 3), np.uint8))
    monkeypatch.chdir(tmp_path)
    for options, *words in (
        ('config.py a.png', 'config.py is a config: give --checkpoint'),
        ('config.py a.png --checkpoint no.pth', 'no checkpoint file no.pth'),
        ('no.py a.png --checkpoint x.pth', "config 'no.py' does not exist"),
        ('x.onnx a.png --device cuda', "device is 'cuda'", 'on the CPU'),
        ('x.onnx a.png --batch-size 0', 'batch_size is 0, expected at least 1'),
        ('x.onnx empty', 'empty has no image'),
        ('x.onnx a.png other/a.png', 'a.png and other/a.png', 'rename one'),
        ('bare.onnx a.png', 'bare.onnx has no config', 'give the config'),
        ('x.onnx missing.png', '1 images were skipped: missing.png')):
        code, _ = main(capsys, *options.split(), '--out', 'out')
        assert code.startswith('predict: ') and '\n' not in code
        for word in words:
            assert word in code


def test_config_in_an_exported_model_runs_no_code(trained, tmp_path, photographs):
    *_, exported = trained('classifier')
    model = onnx.load(exported)
    info = load(exported).info
    set_info(model, dict(info, cfg=info['cfg'].replace("'Resize'", "'os.system'")))
    onnx.save(model, exported)
    with pytest.raises(UnsafeCheckpointError, match=r"type='os\.system'"):
        load(exported).predict(photographs / 'a.png')


@pytest.mark.parametrize('label', [255, 256, 900])
def test_label_maps_of_any_number_of_classes(label, photographs, tmp_path):
    network, labels = Predictor.__new__(Predictor), np.array([[0, label]])
    network.task = 'segmentation'
    network._samples = lambda files, *args: [(files[0], None)]
    network._as_dict = lambda sample: dict(sem_seg=labels)
    network._draw = lambda *args: None
    list(network.write([photographs / 'a.png'], tmp_path / 'out'))
    written = cv2.imread(str(tmp_path / 'out/preds/a.png'), cv2.IMREAD_UNCHANGED)
    assert (written == labels).all()

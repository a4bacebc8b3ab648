# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import json
import sys
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import call_main, load_tool, main_error

pytest.importorskip('sklearn')
pytest.importorskip('tqdm')

tool = load_tool('tools/dataset_converters/make_demo_data.py')

FEW = [
    f'--{name}-{key}={value}' for name in tool.SETS
    for key, value in dict(train=10, val=4).items()
]


@pytest.fixture
def run(monkeypatch):
    def run(out, *args):
        call_main(monkeypatch, tool, f'--out={out}', *FEW, *args)

    return run


def contents(folder):
    """Relative path -> bytes of all files below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(Path(folder).rglob('*')) if path.is_file()
    }


@pytest.fixture(scope='module')
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp('demo')
    with pytest.MonkeyPatch.context() as patch:
        call_main(patch, tool, f'--out={out}', *FEW)
    return out


def test_layout(demo):
    assert sorted(p.name for p in demo.iterdir()) == ['cls', 'det', 'seg']
    assert sorted(tool.CLASSES) == list(tool.CLASSES)
    expected = {f'{name}/meta.json' for name in tool.SETS}
    expected |= {f'det/annotations/instances_{s}.json' for s in tool.SPLITS}
    for split, count in (('train', 10), ('val', 4)):
        for i in range(count):
            expected |= {
                f'cls/{split}/digit_{i % 10}/{i:06d}.jpg',
                f'det/{split}/{i:06d}.jpg',
                f'seg/leftImg8bit/{split}/demo/demo_{i:06d}_leftImg8bit.png',
                f'seg/gtFine/{split}/demo/demo_{i:06d}'
                '_gtFine_labelTrainIds.png',
            }
        # all classes have a folder, so that sorted order is the label
        folders = sorted(p.name for p in (demo / 'cls' / split).iterdir())
        assert folders == list(tool.CLASSES)
    assert set(contents(demo)) == expected

    for path in demo.rglob('*.*g'):
        side = 64 if 'cls' in path.parts else 160
        channels = () if 'gtFine' in path.parts else (3, )
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert image.shape == (side, side) + channels
        assert image.dtype == np.uint8


def test_counts_do_not_change_earlier_images(demo, run, tmp_path):
    """Files are identical byte for byte."""
    run(tmp_path, '--cls-train=12', '--det-val=6', '--seg-train=3')
    first, other = contents(demo), contents(tmp_path)
    shared = [n for n in set(first) & set(other) if n.endswith('g')]
    assert len(shared) == 14 + 14 + 2 * (3 + 4)
    assert all(first[name] == other[name] for name in shared)
    for name in 'det/annotations/instances_train.json', 'det/train/000000.jpg':
        assert first[name] == other[name]


def test_sets_do_not_repeat_each_other(demo):
    det = cv2.imread(str(demo / 'det/train/000000.jpg'))
    seg = cv2.imread(
        str(demo / 'seg/leftImg8bit/train/demo/demo_000000_leftImg8bit.png'))
    val = cv2.imread(str(demo / 'det/val/000000.jpg'))
    for a, b in combinations((det, seg, val), 2):
        assert np.abs(a.astype(int) - b).mean() > 10


def test_split_of_scans():
    scans = tool.load_scans()
    seen = {
        split: {scan.tobytes() for images in scans[split] for scan in images}
        for split in tool.SPLITS
    }
    assert not seen['train'] & seen['val']
    assert len(seen['train'] | seen['val']) == 1797
    for train, val in zip(scans['train'], scans['val']):
        assert abs(len(val) / (len(train) + len(val)) - 0.2) < 0.005


@pytest.mark.parametrize('name', tool.SETS)
def test_no_scan_in_both_splits(name, run, tmp_path, monkeypatch):
    """Records the scans that are used while the files are written."""
    streams, draw_digit = tool.streams, tool.draw_digit
    seen = dict(train=set(), val=set())
    current = []

    def spy_streams(name, split, count):
        current[:] = [split]
        return streams(name, split, count)

    def spy_draw_digit(scan, side):
        seen[current[0]].add(scan.tobytes())
        return draw_digit(scan, side)

    monkeypatch.setattr(tool, 'streams', spy_streams)
    monkeypatch.setattr(tool, 'draw_digit', spy_draw_digit)
    run(tmp_path, '--sets', name, f'--{name}-train=60', f'--{name}-val=60')
    assert min(map(len, seen.values())) > 50
    assert not seen['train'] & seen['val']


@pytest.mark.parametrize('split', tool.SPLITS)
def test_coco(demo, split):
    coco_api = pytest.importorskip('pycocotools.coco')
    coco = coco_api.COCO(demo / f'det/annotations/instances_{split}.json')
    assert set(coco.dataset) == {
        'info', 'licenses', 'images', 'annotations', 'categories'
    }
    categories = coco.loadCats(coco.getCatIds())
    assert [(c['id'], c['name']) for c in categories
            ] == [(d + 1, f'digit_{d}') for d in range(10)]
    assert len({a['id'] for a in coco.dataset['annotations']
                }) == len(coco.dataset['annotations'])
    assert 0 not in coco.anns

    scans = tool.load_scans()[split]
    for entry in coco.dataset['images']:
        path = demo / 'det' / split / entry['file_name']
        image = cv2.imread(str(path))
        assert image.shape == (entry['height'], entry['width'], 3)

        # draw the image again, to know the pixels of its digits
        key = [0, 1, tool.SPLITS.index(split), entry['id'] - 1]
        again, digits = tool.draw_scene(np.random.default_rng(key), scans, 160)
        assert np.abs(image[..., ::-1].astype(int) - again).mean() < 8

        annotations = coco.loadAnns(coco.getAnnIds(imgIds=entry['id']))
        assert 1 <= len(annotations) == len(digits) <= 5
        for annotation, digit in zip(annotations, digits):
            assert annotation['category_id'] == digit.label + 1
            assert annotation['iscrowd'] == 0
            x, y, w, h = annotation['bbox']
            assert 0 <= x and x + w <= 160 and 0 <= y and y + h <= 160
            assert 20 <= max(w, h) <= 70

            # tight: exactly so around the digit's pixels
            pixels = np.zeros((160, 160), np.uint8)
            pixels[digit.window][digit.mask] = 1
            assert cv2.boundingRect(pixels) == (x, y, w, h)

            # and the polygons inside of the box hold the digit's pixels
            for polygon in annotation['segmentation']:
                assert len(polygon) >= 6 and len(polygon) % 2 == 0
                points = np.reshape(polygon, (-1, 2))
                assert (points >= (x, y)).all()
                assert (points <= (x + w, y + h)).all()
            contours, _ = cv2.findContours(pixels, cv2.RETR_EXTERNAL,
                                           cv2.CHAIN_APPROX_NONE)
            filled = cv2.drawContours(pixels.copy(), contours, -1, 1, -1) > 0
            mask = coco.annToMask(annotation) > 0
            assert (mask & filled).sum() > 0.9 * (mask | filled).sum()
            assert annotation['area'] == pytest.approx(filled.sum(), rel=0.1)
        for a, b in combinations(annotations, 2):
            assert tool.box_iou(a['bbox'], b['bbox']) <= 0.1


def test_box_iou():
    assert tool.box_iou((0, 0, 4, 4), (0, 0, 4, 4)) == 1
    assert tool.box_iou((0, 0, 4, 4), (2, 0, 4, 4)) == 8 / 24
    assert tool.box_iou((0, 0, 4, 4), (5, 5, 4, 4)) == 0


def test_seg_labels(demo):
    scans = tool.load_scans()
    seen = set()
    for s, split in enumerate(tool.SPLITS):
        folder = demo / 'seg/gtFine' / split / 'demo'
        for i, path in enumerate(sorted(folder.iterdir())):
            labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            seen |= set(np.unique(labels).tolist())
            assert (labels == tool.BACKGROUND).mean() > 0.4
            _, digits = tool.draw_scene(
                np.random.default_rng([0, 2, s, i]), scans[split], 160)
            for digit in digits:
                assert (labels[digit.window][digit.mask] == digit.label).all()
            assert (labels != tool.BACKGROUND).sum() == sum(
                digit.mask.sum() for digit in digits)
    assert seen == set(range(11))


def test_digits_stand_out():
    """Every digit differs in luminance from all of the background."""
    scans = tool.load_scans()['train']
    for seed in range(30):
        image, digits = tool.draw_scene(np.random.default_rng(seed), scans, 160)
        luminance = image @ tool.LUMA
        background = np.ones((160, 160), bool)
        for digit in digits:
            background[digit.window] = False
        low, high = np.percentile(luminance[background], [1, 99])
        for digit in digits:
            ink = np.median(luminance[digit.window][digit.alpha == 1])
            assert ink < low - 35 or ink > high + 35


def test_already_there(run, tmp_path, capsys):
    args = ('--sets', 'cls')
    run(tmp_path, *args)
    assert [p.name for p in tmp_path.iterdir()] == ['cls']
    meta = json.loads((tmp_path / 'cls/meta.json').read_text())
    assert meta == dict(made_by='make_demo_data', version=tool.VERSION, set='cls',
                        train=10, val=4, size=64)

    # same settings: kept
    mark = tmp_path / 'cls/mark'
    mark.touch()
    capsys.readouterr()
    run(tmp_path, *args)
    assert 'already there' in capsys.readouterr().out
    assert mark.exists()

    # other settings: an error, before any other set is made
    for other in ('--cls-val=5', '--cls-size=48'):
        with pytest.raises(SystemExit) as error:
            run(tmp_path, '--sets', 'det', 'cls', other)
        assert 'other settings' in str(error.value)
        assert '\n' not in str(error.value)
        assert mark.exists() and not (tmp_path / 'det').exists()


def test_version_counts_as_a_setting(run, tmp_path, monkeypatch):
    run(tmp_path, '--sets', 'cls')
    monkeypatch.setattr(tool, 'VERSION', tool.VERSION + 1)
    with pytest.raises(SystemExit, match='version'):
        run(tmp_path, '--sets', 'cls')


@pytest.mark.parametrize('meta', [None, '{', '[]', '{"made_by": "me"}'])
def test_never_replaces_what_others_made(run, tmp_path, meta):
    (tmp_path / 'det').mkdir()
    (tmp_path / 'det/precious.jpg').touch()
    if meta is not None:
        (tmp_path / 'det/meta.json').write_text(meta)
    before = contents(tmp_path)
    with pytest.raises(SystemExit, match='not made by this tool'):
        run(tmp_path, '--sets', 'det')
    assert contents(tmp_path) == before


@pytest.mark.parametrize('name', tool.SETS)
@pytest.mark.parametrize('error', [KeyboardInterrupt, BufferError])
def test_interruption_leaves_no_half_set(name, error, run, tmp_path, monkeypatch):
    write_image = tool.write_image
    written = []

    def fail_at_seventh(path, image):
        written.append(path)
        if len(written) == 7:
            raise error
        write_image(path, image)

    monkeypatch.setattr(tool, 'write_image', fail_at_seventh)
    with pytest.raises(error):
        run(tmp_path, '--sets', name)
    assert not list(tmp_path.iterdir())
    run(tmp_path, '--sets', name)  # after that it can be made
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize('args, words', [
    (['--cls-train=-1'], '--cls-train is -1, expected at least 1'),
    (['--det-val=0'], '--det-val is 0, expected at least 1'),
    (['--cls-size=0'], '--cls-size is 0, expected at least 32'),
    (['--seg-size=79'], '--seg-size is 79, expected at least 80'),
])
def test_bad_values(args, words, tmp_path, monkeypatch):
    assert words in main_error(monkeypatch, tool, '--out', tmp_path, *args)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('name, size', tool.MIN_SIZE.items())
def test_smallest_size(name, size, run, tmp_path):
    run(tmp_path, '--sets', name, f'--{name}-train=30', f'--{name}-size={size}')
    assert (tmp_path / name).is_dir()


@pytest.mark.parametrize('module, package', [('sklearn', 'scikit-learn'),
                                             ('tqdm', 'tqdm')])
def test_missing_package(module, package, tmp_path, monkeypatch):
    for name in list(sys.modules):
        if name.split('.')[0] == module:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    message = main_error(monkeypatch, tool, '--out', tmp_path)
    assert message.endswith(f'pip install {package}')
    assert not list(tmp_path.iterdir())

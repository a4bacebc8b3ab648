# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Make three small data sets, so that every recipe runs without a download.

The images have digits on textured backgrounds. The digits are scikit-learn's
``load_digits``: 1,797 scans of handwriting with 8x8 pixels, which are part of
that package. They are enlarged::

    data/demo
    ├── cls                       ImageNet folders, 64x64, one digit per image
    │   ├── meta.json             the settings of the set
    │   ├── train/digit_3/000003.jpg
    │   └── val/digit_3/000003.jpg
    ├── det                       COCO, 160x160, 1 to 5 digits per image
    │   ├── meta.json
    │   ├── annotations/instances_{train,val}.json
    │   ├── train/000000.jpg
    │   └── val/000000.jpg
    └── seg                       Cityscapes folders, 160x160, 11 classes
        ├── meta.json
        ├── leftImg8bit/{train,val}/demo/demo_000000_leftImg8bit.png
        └── gtFine/{train,val}/demo/demo_000000_gtFine_labelTrainIds.png

A scan is used either for training or for validation, never for both, and the
split is the same in all three sets. Every image has its own random stream. So
with the same versions of NumPy and OpenCV the files are identical byte for byte,
and a larger number of images does not change the first images.
"""
import argparse
import json
import sys
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Sequence, Tuple

import cv2
import numpy as np

from autonl_mm.runs import configs
from autonl_mm.runs.atomic_files import atomic_dir

# Increase it with every change that alters the files, so that sets of an older
# version are not considered up to date.
VERSION = 1
CLASSES = tuple(f'digit_{d}' for d in range(10))
BACKGROUND = 10  # label value of the background in the segmentation set
# Numbers of training and validation images, and side of the images
SETS = dict(cls=(4000, 500, 64), det=(600, 100, 160), seg=(600, 100, 160))
SPLITS = ('train', 'val')
# Side of a scan in the images of det and seg, in pixels; in cls, relative to the
# side of the image.
SCENE_SIDES = (24, 64)
CLS_SIDES = (0.8, 0.95)
# Smallest side of an image in which digits of these sides are legible.
MIN_SIZE = dict(cls=32, det=80, seg=80)
MIN_CONTRAST = 80  # grey levels between a digit and every background pixel
LUMA = np.array([0.299, 0.587, 0.114])  # of R, G, B; sums to one

# Ten arrays, one per digit, of shape (number of scans, 8, 8), values 0..1.
Scans = List[np.ndarray]


class Digit(NamedTuple):
    """A digit in an image; ``alpha`` covers the ``(h, w)`` pixels at x, y.

    The digit's pixels are those with ``alpha >= 0.5``, and every row and
    column at the border of ``alpha`` holds one: (x, y, w, h) is the tight box.
    """
    label: int
    alpha: np.ndarray
    x: int
    y: int

    @property
    def mask(self) -> np.ndarray:
        """The digit's pixels, bool, ``(h, w)``."""
        return self.alpha >= 0.5

    @property
    def box(self) -> Tuple[int, int, int, int]:
        """The tight box as (x, y, w, h)."""
        height, width = self.alpha.shape
        return self.x, self.y, width, height

    @property
    def window(self) -> Tuple[slice, slice]:
        """The slices of rows and columns that cut out the box."""
        height, width = self.alpha.shape
        return slice(self.y, self.y + height), slice(self.x, self.x + width)


def load_scans() -> Dict[str, Scans]:
    """The scans, each class split into 80 % for 'train' and 20 % for 'val'."""
    from sklearn.datasets import load_digits
    digits = load_digits()
    rng = np.random.default_rng(0)
    scans: Dict[str, Scans] = dict(train=[], val=[])
    for label in range(10):
        images = digits.images[digits.target == label] / 16
        images = images[rng.permutation(len(images))]
        cut = round(0.8 * len(images))
        scans['train'].append(images[:cut])
        scans['val'].append(images[cut:])
    return scans


def draw_digit(scan: np.ndarray, side: int) -> np.ndarray:
    """Enlarge a scan ``(8, 8)`` smoothly to opacities ``(h, w)`` from 0 to 1,
    cropped to the pixels of at least 0.5. The digit is usually narrower than
    ``side``, and can be one or two pixels higher."""
    # With the frame of zeros, strokes at the border get a round end.
    scan = np.pad(scan / scan.max(), 1).astype(np.float32)
    framed = round(side * len(scan) / 8)
    ink = cv2.resize(scan, (framed, framed), interpolation=cv2.INTER_CUBIC)
    # A steeper ramp than that of the interpolation gives strokes a clear edge.
    alpha = np.clip((ink - 0.2) / 0.4, 0, 1)
    mask = alpha >= 0.5
    rows, = np.nonzero(mask.any(1))
    columns, = np.nonzero(mask.any(0))
    return alpha[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]


def draw_texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """A random mixture of a gradient, low-frequency noise, stripes and checks,
    ``(size, size)`` from 0 to 1."""
    y, x = np.mgrid[:size, :size]

    def wave(period: float) -> np.ndarray:
        angle, phase = rng.uniform(0, 2 * np.pi, 2)
        along = x * np.cos(angle) + y * np.sin(angle)
        return np.sin(2 * np.pi * along / period + phase)

    gradient = wave(rng.uniform(2, 4) * size)
    cells = rng.integers(3, 9)
    noise = cv2.resize(rng.uniform(-1, 1, (cells, cells)), (size, size),
                       interpolation=cv2.INTER_CUBIC)
    stripes = wave(rng.uniform(6, 32))
    cell = rng.integers(5, 24)
    checks = (x // cell + y // cell) % 2 * 2 - 1
    # With a small concentration, mostly one or two of the four dominate.
    weights = rng.dirichlet([0.5] * 4)
    texture = sum(w * t for w, t in zip(weights, (gradient, noise, stripes, checks)))
    return (texture - texture.min()) / np.ptp(texture)


def draw_colour(rng: np.random.Generator, luminance: float) -> np.ndarray:
    """A random colour of a luminance, as RGB ``(3, )``, all from 0 to 255."""
    chroma = rng.uniform(-1, 1, 3)
    chroma -= chroma @ LUMA
    room = min(luminance, 255 - luminance, 90)
    return luminance + rng.uniform(0, room) * chroma / np.abs(chroma).max()


def box_iou(a: Sequence[int], b: Sequence[int]) -> float:
    """Intersection over union of two boxes (x, y, w, h)."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    inter = max(width, 0) * max(height, 0)
    return inter / (a[2] * a[3] + b[2] * b[3] - inter)


def place_digits(rng: np.random.Generator, scans: Scans,
                 labels: Sequence[int], sides: Tuple[int, int],
                 size: int) -> List[Digit]:
    """Choose scans, sizes and positions of digits that do not overlap: no two share
    a pixel, and the IoU of their boxes is at most 0.1. A digit is left out if no
    free position is found; the first one never is."""
    digits: List[Digit] = []
    taken = np.zeros((size, size), bool)
    for label in labels:
        scan = scans[label][rng.integers(len(scans[label]))]
        for _ in range(30):
            alpha = draw_digit(scan, rng.integers(*sides, endpoint=True))
            height, width = alpha.shape
            digit = Digit(int(label), alpha, int(rng.integers(size - width + 1)),
                          int(rng.integers(size - height + 1)))
            if taken[digit.window][alpha > 0].any() or any(
                    box_iou(digit.box, other.box) > 0.1 for other in digits):
                continue
            taken[digit.window] |= alpha > 0
            digits.append(digit)
            break
    return digits


def draw_image(rng: np.random.Generator, digits: Sequence[Digit],
                 size: int) -> np.ndarray:
    """Draw a background and the digits on it: RGB, ``(size, size, 3)``, uint8."""
    # The background stays in a band of luminances and every digit outside of
    # it, so a digit is legible on any texture. Above or below a band of at
    # most 60 there is room for a contrast of 97 or more.
    low = rng.uniform(0, 195)
    high = low + rng.uniform(10, 60)
    texture = draw_texture(rng, size)[..., None]
    ends = [low, high] if rng.random() < 0.5 else [high, low]
    first, second = (draw_colour(rng, luminance) for luminance in ends)
    image = first + (second - first) * texture

    for digit in digits:
        rooms = {-1: low, 1: 255 - high}  # of a darker, of a brighter digit
        sign = rng.choice([s for s in rooms if rooms[s] >= MIN_CONTRAST])
        contrast = rng.uniform(MIN_CONTRAST, rooms[sign])
        colour = draw_colour(rng, low - contrast if sign < 0 else high + contrast)
        under = image[digit.window]
        under += (colour - under) * digit.alpha[..., None]

    image += rng.normal(0, rng.uniform(0, 6), image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def digit_polygons(digit: Digit) -> Tuple[List[List[float]], float]:
    """The outer contours of a digit, each a flat list x0, y0, x1, y1, ... in pixels
    of the image (the top left pixel covers 0..1), and their area; holes are filled,
    as in COCO."""
    # Contours run through the centres of pixels, which makes a thin stroke one
    # pixel thinner. After fourfold enlargement it is a quarter of a pixel.
    scale = 4
    height, width = digit.alpha.shape
    alpha = cv2.resize(digit.alpha, (scale * width, scale * height),
                       interpolation=cv2.INTER_LINEAR)
    contours, _ = cv2.findContours((alpha >= 0.5).astype(np.uint8),
                                   cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    polygons, area = [], 0.
    for contour in contours:
        contour = cv2.approxPolyDP(contour, 1, True).reshape(-1, 2)
        if len(contour) < 3:
            continue  # smaller than a pixel
        points = (contour + 0.5) / scale + (digit.x, digit.y)
        polygons.append(points.ravel().tolist())
        area += cv2.contourArea(points.astype(np.float32))
    return polygons, area


def write_image(path: Path, image: np.ndarray) -> None:
    """Write an RGB image or a label map in the format of the file's suffix."""
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    # cv2.imwrite only returns False on a full disk; write_bytes raises.
    _, data = cv2.imencode(path.suffix, image)
    path.write_bytes(data.tobytes())


def streams(name: str, split: str,
            count: int) -> Iterator[Tuple[int, np.random.Generator]]:
    """Yield index and random stream of each image, with a progress bar."""
    from tqdm import tqdm
    for index in tqdm(range(count), desc=f'{name}/{split}', unit='img'):
        key = [0, list(SETS).index(name), SPLITS.index(split), index]
        yield index, np.random.default_rng(key)


def draw_scene(rng: np.random.Generator, scans: Scans,
               size: int) -> Tuple[np.ndarray, List[Digit]]:
    """Draw an image of det or seg, and its 1 to 5 digits."""
    labels = rng.integers(10, size=rng.integers(1, 6))
    digits = place_digits(rng, scans, labels, SCENE_SIDES, size)
    return draw_image(rng, digits, size), digits


def write_cls(root: Path, split: str, scans: Scans, count: int, size: int) -> None:
    """Write one split of the classification set below ``root``."""
    for name in CLASSES:
        (root / split / name).mkdir(parents=True)
    sides = tuple(round(size * share) for share in CLS_SIDES)
    for index, rng in streams('cls', split, count):
        label = index % 10  # in turn, which balances the classes
        digits = place_digits(rng, scans, [label], sides, size)
        write_image(root / split / CLASSES[label] / f'{index:06d}.jpg',
                    draw_image(rng, digits, size))


def write_det(root: Path, split: str, scans: Scans, count: int, size: int) -> None:
    """Write one split of the detection set below ``root``."""
    (root / split).mkdir()
    (root / 'annotations').mkdir(exist_ok=True)
    images, annotations = [], []
    for index, rng in streams('det', split, count):
        image, digits = draw_scene(rng, scans, size)
        file_name = f'{index:06d}.jpg'
        write_image(root / split / file_name, image)
        images.append(dict(id=index + 1, file_name=file_name, width=size, height=size))
        for digit in digits:
            polygons, area = digit_polygons(digit)
            annotations.append(dict(
                # from 1: pycocotools treats a match with id 0 as none
                id=len(annotations) + 1, image_id=index + 1,
                category_id=digit.label + 1, bbox=list(digit.box), area=area,
                iscrowd=0, segmentation=polygons))
    coco = dict(
        info=dict(
            description='autonl_mm demo data: handwritten digits of '
            'scikit-learn (UCI optdigits, E. Alpaydin and C. Kaynak, 1998)',
            version=str(VERSION)),
        licenses=[], images=images, annotations=annotations,
        categories=[dict(id=label + 1, name=name, supercategory='digit')
                    for label, name in enumerate(CLASSES)])
    path = root / 'annotations' / f'instances_{split}.json'
    path.write_text(json.dumps(coco))


def write_seg(root: Path, split: str, scans: Scans, count: int, size: int) -> None:
    """Write one split of the segmentation set below ``root``."""
    image_dir = root / 'leftImg8bit' / split / 'demo'
    label_dir = root / 'gtFine' / split / 'demo'
    image_dir.mkdir(parents=True)
    label_dir.mkdir(parents=True)
    for index, rng in streams('seg', split, count):
        image, digits = draw_scene(rng, scans, size)
        labels = np.full((size, size), BACKGROUND, np.uint8)
        for digit in digits:
            labels[digit.window][digit.mask] = digit.label
        stem = f'demo_{index:06d}'
        write_image(image_dir / f'{stem}_leftImg8bit.png', image)
        write_image(label_dir / f'{stem}_gtFine_labelTrainIds.png', labels)


WRITERS = dict(cls=write_cls, det=write_det, seg=write_seg)


def already_there(path: Path, meta: dict) -> bool:
    """Whether a set exists with the same settings.

    Raises:
        FileExistsError: If the folder is another set, or not made by this tool.
    """
    if not path.exists():
        return False
    try:
        found = json.loads((path / 'meta.json').read_text())
        ours = found['made_by'] == meta['made_by']
    except (OSError, ValueError, TypeError, KeyError):
        ours = False
    if not ours:
        raise FileExistsError(
            f'{path} was not made by this tool: choose another --out')
    differ = ', '.join(f'{key} is {found.get(key)}, not {value}'
                       for key, value in meta.items() if found.get(key) != value)
    if differ:
        raise FileExistsError(f'{path} was made with other settings ({differ}): remove '
                              'it, or choose another --out')
    return True


def make_set(path: Path, meta: dict) -> None:
    """Make a whole set, or nothing if it fails."""
    scans = load_scans()
    with atomic_dir(path) as folder:
        for split in SPLITS:
            WRITERS[meta['set']](folder, split, scans[split], meta[split], meta['size'])
        (folder / 'meta.json').write_text(json.dumps(meta, indent=2) + '\n')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Make the demo data sets from handwritten digits.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument(
        '--out', type=Path, default='data/demo', help='folder for the sets')
    parser.add_argument(
        '--sets', nargs='+', choices=SETS, default=list(SETS), help='sets to make')
    for name, defaults in SETS.items():
        for key, default, text in zip(('train', 'val', 'size'), defaults, (
                'number of training images', 'number of validation images',
                f'side of the images in pixels, at least {MIN_SIZE[name]}')):
            parser.add_argument(
                f'--{name}-{key}', type=int, default=default, metavar='N', help=text)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    metas = []
    try:
        # All checks come first, so that nothing is made if a later set fails.
        for name in SETS:
            configs.check_positive(args, f'{name}_train', f'{name}_val')
            train, val, size = (
                getattr(args, f'{name}_{key}') for key in ('train', 'val', 'size'))
            if size < MIN_SIZE[name]:
                raise ValueError(f'--{name}-size is {size}, expected at least '
                                 f'{MIN_SIZE[name]}')
            meta = dict(made_by='make_demo_data', version=VERSION, set=name,
                        train=train, val=val, size=size)
            if name in args.sets:
                metas.append((meta, already_there(args.out / name, meta)))
        for meta, there in metas:
            if not there:
                make_set(args.out / meta['set'], meta)
            print(f'{args.out / meta["set"]}: {"already there" if there else "made"}')
    except (FileExistsError, ValueError) as error:
        sys.exit(f'make_demo_data.py: {error}')
    except ModuleNotFoundError as error:
        module = error.name.split('.')[0]
        package = {'sklearn': 'scikit-learn'}.get(module, module)
        sys.exit(f'make_demo_data.py: {package} is not installed: pip install '
                 f'{package}')


if __name__ == '__main__':
    main()

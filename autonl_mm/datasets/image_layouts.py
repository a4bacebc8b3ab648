# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Folders of images with labels in one of five layouts, read into one form.

classes  cat/1.jpg dog/1.jpg, or train/cat/1.jpg val/cat/2.jpg
coco     a COCO file, or one for each part with its name: instances_train.json
voc      Pascal VOC's 1.xml for each 1.jpg. Corners are pixels counted from 1, and both
         lie in the box: (1, 1, W, H) is the whole image
yolo     1.txt for each 1.jpg, beside it or in labels/ as the image in images/. A line
         is a class and the box's centre x, y, width and height as shares of the image;
         names of the classes are in data.yaml or, one a line, in classes.txt
masks    images/1.jpg and masks/1.png, whose values are classes; 255 is ignored. Names
         of the classes are in classes.txt, one a line, from 0 on

The parts of all layouts are folders named train, val and test. COCO files may have the
part in their name, and Pascal VOC's are also listed in ImageSets/Main.

Each ``read_*`` takes the folder, and the paths in it of all files and of the images. It
returns names of the classes and a list of :class:`Sample`, and raises ``ValueError``
with the file that is wrong and its remedy.
"""
import json
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import yaml
from PIL import Image

from autonl_mm.runs.classes import different_classes
from autonl_mm.runs.coco_files import check_coco
from autonl_mm.runs.dataset_configs import IMAGE_ENDINGS
from autonl_mm.runs.text_files import read_text

from .holdout_dataset import split_indices

OWN = 'own_data_'  # Files of ours among theirs
IMAGE_FOLDERS = ('images', 'image', 'imgs', 'img', 'JPEGImages')
# Beside a folder of images, no image in these folders is a photograph; labels/ and
# annotations/ may hold some.
ONLY_MASKS = {'masks', 'mask', 'SegmentationClass', 'SegmentationObject'}
MASK_FOLDERS = ('masks', 'mask', 'labels', 'annotations', 'SegmentationClass')
PART = re.compile(r'(train|val|test)(id|idation|ing)?(20\d\d)?', re.IGNORECASE)
TASKS = dict(classes='classifier', coco='detector', voc='detector', yolo='detector',
             masks='segmentor')


@dataclass
class Sample:
    """An image with its labels.

    Args:
        image (str): Path from the folder.
        part (str): ``'train'``, ``'val'``, ``'test'``, or ``''`` if nothing says it.
        labels (list[int]): Of the image, of its boxes, or values in its mask.
        info (dict): Its entry in a COCO file, or settings of the dataset for its mask.
        boxes (list[dict]): Its annotations in a COCO file.
    """
    image: str
    part: str
    labels: List[int]
    info: dict = field(default_factory=dict)
    boxes: List[dict] = field(default_factory=list)


Read = Tuple[List[str], List[Sample]]


def part_of(names: Sequence[str]) -> str:
    """The part that one of these names of folders says, or ``''``."""
    found = filter(None, map(PART.fullmatch, names))
    return next((match[1].lower() for match in found), '')


def image_size(path: Path) -> Tuple[int, int]:
    """Width and height, upright as EXIF says; reads only the header."""
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(0x0112, 1) >= 5  # the tag of the orientation
            return image.size[::-1] if turned else image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as e:
        raise ValueError(f'{path} cannot be read as an image ({e}): replace or remove '
                         'it') from None


def check_size(image: Path, given: Sequence[int], source: str) -> None:
    """Refuse an annotation of another size."""
    size = image_size(image)
    if tuple(given) != size:
        raise ValueError(
            f'{image} has {size[0]}x{size[1]} pixels (width x height, upright), but '
            f'{source} {given[0]}x{given[1]}: use the image that was annotated')


def pick_image(root: Path, file: Path, name: str, places: List[Path],
               part: str) -> Path:
    """The image that a file of labels means by a name.

    Args:
        root (Path): The folder.
        file (Path): The file of labels. As the next ones, its path from the folder.
        name (str): The name, possibly with a part of the path.
        places (list[Path]): All images of this name.
        part (str): The part that the labels are of.
    """
    for test in (lambda p: f'/{p.as_posix()}'.endswith(f'/{name}'),
                 lambda p: p.parent == file.parent,
                 lambda p: part_of(p.parts[:-1]) == part):
        places = list(filter(test, places)) or places
    if len(places) == 1:
        return places[0]
    raise ValueError(f'{root / file}: the image {name!r} is ' + (
        f'{" or ".join(map(str, places))}: give each image a name of its own'
        if places else 'nowhere in the folder: put it there'))


def check_names(names: Sequence[Any], source: Any) -> List[str]:
    """Names of classes, without white space around them; none may occur twice."""
    names = [str(name).strip() for name in names]
    for name, count in Counter(names).items():
        if count > 1 or not name:
            raise ValueError(f'{source} has {count} classes of the name {name!r}: give '
                             'each class a name of its own')
    return names


def box_of(place: Any, left: float, top: float, right: float, bottom: float,
           width: int, height: int) -> List[float]:
    """``[x, y, width, height]`` in pixels, cut at the image's edges."""
    corners = left, top, right, bottom
    if all(map(isfinite, corners)):
        left, right = max(left, 0), min(right, width)
        top, bottom = max(top, 0), min(bottom, height)
        if right > left and bottom > top:
            return [left, top, right - left, bottom - top]
    raise ValueError(f'{place}: a box with the corners {corners} has no area in its '
                     f'image of {width}x{height} pixels: correct or remove it')


def box_sample(image: str, part: str, size: Tuple[int, int],
               boxes: List[Tuple[int, List[float]]]) -> Sample:
    """A sample of a COCO file. ``boxes`` are pairs of label and ``[x, y, w, h]``."""
    return Sample(
        image, part, [label for label, _ in boxes],
        dict(file_name=image, width=size[0], height=size[1]),
        [dict(category_id=label, bbox=box, area=box[2] * box[3], iscrowd=0)
         for label, box in boxes])


def read_classes(root: Path, files: List[Path], images: List[Path]) -> Read:
    """Folders of classes."""
    tops = {path.parts[0] for path in images if len(path.parts) > 1}
    depth = 1 if tops and all(map(PART.fullmatch, tops)) else 0
    for path in images:
        if len(path.parts) < depth + 2:
            raise ValueError(
                f'{root / path} has no label: expected one folder of images for each '
                'class, or labels in a COCO file, XML files, text files or masks')
    folders = [p for p in root.glob('*/' * (depth + 1)) if not p.name.startswith('.')]
    names = sorted({path.parts[depth] for path in images})
    for path in folders:
        if not any(path in (root / image).parents for image in images):
            raise ValueError(f'the folder {path} has no image that ends in one of '
                             f'{", ".join(IMAGE_ENDINGS)}: put images there or remove '
                             'it')
    if len(names) < 2:
        raise ValueError(
            f'{root} has images in the one folder {names[0]!r} and no labels: expected '
            'a folder for each of two or more classes, or labels in a COCO file, XML '
            'files, text files or masks')
    samples = []
    for path in images:
        image_size(root / path)
        part = part_of(path.parts[:depth])
        samples.append(Sample(path.as_posix(), part, [names.index(path.parts[depth])]))
    return names, samples


def read_coco(root: Path, files: List[Path], images: List[Path]) -> Read:
    """COCO files. Their images are found by the end of the path."""
    files = [f for f in files if _is_coco(root / f)]
    files = [f for f in files if f.name.startswith('instances')] or files
    by_name, by_part, first, names = defaultdict(list), {}, None, []
    samples: List[Sample] = []
    for path in images:
        by_name[path.name].append(path)
    for file in files:
        part = part_of([*file.parts[:-1], *re.split(r'[^A-Za-z0-9]', file.stem)])
        if part in by_part:
            raise ValueError(f'{root / file} and {root / by_part[part]} are COCO files '
                             f'of the same part, {part or "the whole"}: keep one, or '
                             'write train and val into their names')
        by_part[part] = file
        if part == 'test':
            continue
        path = root / file
        check_coco('labels', str(path), evaluates=True)
        data = json.loads(path.read_bytes())
        names = check_names([c['name'] for c in data['categories']], path)
        if first and names != first[1]:
            raise different_classes(str(path), names, *first)
        first = str(path), names
        labels = {c['id']: i for i, c in enumerate(data['categories'])}
        boxes = {info['id']: [] for info in data['images']}
        for box in data.get('annotations', []):
            for key, known in ('image_id', boxes), ('category_id', labels):
                if box[key] not in known:
                    raise ValueError(f'{path}: an annotation has the {key} {box[key]}, '
                                     'which is not in the file: correct or remove it')
            boxes[box['image_id']].append(
                dict(box, category_id=labels[box['category_id']]))
        for info in data['images']:
            name = info['file_name'].replace('\\', '/').lstrip('./')
            image = pick_image(root, file, name, by_name[Path(name).name], part)
            size = info['width'], info['height']
            check_size(root / image, size, f'{path} says')
            for box in boxes[info['id']]:
                x, y, w, h = box['bbox']
                box_of(f'{path}: {image}', x, y, x + w, y + h, *size)
            samples.append(Sample(
                image.as_posix(), part,
                [box['category_id'] for box in boxes[info['id']]],
                dict(info, file_name=image.as_posix()), boxes[info['id']]))
    return names, samples


def read_voc(root: Path, files: List[Path], images: List[Path]) -> Read:
    """Pascal VOC's XML files; their parts are also found in ImageSets."""
    listed = {name: part_of([file.stem]) for file in files
              if file.parts[-3:-1] == ('ImageSets', 'Main') and part_of([file.stem])
              for name in read_text(root / file).split()}
    by_stem, found = defaultdict(list), []
    for path in images:
        by_stem[path.stem].append(path)
    for file in files:
        if file.suffix != '.xml':
            continue
        path = pick_image(
            root, file, file.stem, by_stem[file.stem], part_of(file.parts[:-1]))
        try:
            tree, boxes = ElementTree.parse(root / file), []
            given = [int(tree.findtext(f'size/{side}', 0))
                     for side in ('width', 'height')]
            for item in tree.iter('object'):
                corners = [float(item.findtext(f'bndbox/{key}'))
                           for key in ('xmin', 'ymin', 'xmax', 'ymax')]
                boxes.append((item.findtext('name').strip(), corners))
        except (AttributeError, ElementTree.ParseError, TypeError, ValueError) as e:
            raise ValueError(
                f'{root / file} is not of Pascal VOC ({e}): expected size, and for '
                'each object a name and bndbox with xmin, ymin, xmax, ymax') from None
        if all(given):  # some tools write 0
            check_size(root / path, given, f'{root / file} says')
        found.append((file, path, image_size(root / path), boxes))
    names = sorted({name for *_, boxes in found for name, _ in boxes})
    samples = []
    for file, path, size, boxes in found:
        boxes = [(names.index(name), box_of(root / file, x - 1, y - 1, *end, *size))
                 for name, (x, y, *end) in boxes]
        part = listed.get(file.stem) or part_of(path.parts[:-1])
        samples.append(box_sample(path.as_posix(), part, size, boxes))
    return names, samples


def _class_list(root: Path, files: List[Path]) -> List[str]:
    """Names in the first data.yaml or list of classes; [] if there is none."""
    for file in files:
        path = root / file
        if file.suffix in ('.yaml', '.yml'):
            try:
                content = yaml.safe_load(read_text(path))
            except yaml.YAMLError as e:
                raise ValueError(f'{path} is not YAML: {" ".join(str(e).split())}'
                                 ) from None
            names = content.get('names') if isinstance(content, dict) else None
            if isinstance(names, dict):
                names = [names.get(i, '') for i in range(len(names))]
            if names:
                return check_names(names, path)
        elif file.name in ('classes.txt', 'obj.names'):
            return check_names(read_text(path).strip().splitlines(), path)
    return []


def read_yolo(root: Path, files: List[Path], images: List[Path]) -> Read:
    """YOLO's text files. An image without one has no box."""
    names = _class_list(root, files)
    if not names:
        raise ValueError(f'{root} has no names of classes: write data.yaml with names, '
                         'or classes.txt with a name a line, from class 0 on')
    texts = {file.with_suffix(''): file for file in files
             if file.suffix == '.txt' and file.name != 'classes.txt'}
    samples, used = [], set()
    for path in images:
        stem = path.with_suffix('')
        beside = Path(*('labels' if folder in IMAGE_FOLDERS else folder
                        for folder in path.parts[:-1]), path.stem)
        file = texts.get(beside) or texts.get(stem)
        used.add(file)
        width, height = size = image_size(root / path)
        boxes = []
        for i, line in enumerate(read_text(root / file).splitlines() if file else ()):
            if not line.strip():
                continue
            place = f'{root / file}: line {i + 1}'
            try:
                label, x, y, w, h = map(float, line.split())
            except ValueError:
                raise ValueError(
                    f'{place} is {line[:60]!r}, expected 5 numbers: class, centre x, '
                    'y, width and height') from None
            if label not in range(len(names)):
                raise ValueError(f'{place} has the class {label:g}, but there are '
                                 f'names for 0 to {len(names) - 1}: add its name')
            if not all(0 <= share <= 1 for share in (x, y, w, h)):
                raise ValueError(f'{place} has a number outside of 0 to 1: expected '
                                 'centre and size as shares of the image, not pixels')
            boxes.append((int(label), box_of(
                place, (x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width,
                (y + h / 2) * height, *size)))
        part = part_of(path.parts[:-1])
        samples.append(box_sample(path.as_posix(), part, size, boxes))
    for stem, file in texts.items():
        if file not in used and 'labels' in file.parts:
            raise ValueError(f'{root / file} has no image of the name {stem.name}: put '
                             'it into images/ or remove the file')
    return names, samples


def read_masks(root: Path, files: List[Path], images: List[Path]) -> Read:
    """Images and masks of the same name, or of one suffix after it."""
    masks, photos = {}, []
    for path in images:
        for folders, is_mask in (IMAGE_FOLDERS, False), (MASK_FOLDERS, True):
            at = next((i for i, p in enumerate(path.parts[:-1]) if p in folders), None)
            if at is not None:
                key = path.parts[:at], '/'.join(path.parts[at + 1:])
                if is_mask:
                    masks[key] = path, '/'.join(path.parts[:at + 1])
                else:
                    photos.append((key, path, '/'.join(path.parts[:at + 1])))
                break
    suffixes = Counter(
        mask[len(name) - len(path.suffix):] for (top, name), path, _ in photos[:20]
        for other, mask in masks if other == top
        and mask.startswith(name[:len(name) - len(path.suffix)]))
    suffix = suffixes.most_common(1)[0][0] if suffixes else '.png'
    listed = _class_list(root, files)
    samples, values, used = [], set(), set()
    for (top, name), path, prefix in photos:
        name = name[:len(name) - len(path.suffix)]
        mask, mask_prefix = masks.get((top, name + suffix), (None, None))
        if mask is None:
            raise ValueError(f'{root / path} has no mask {name}{suffix} in '
                             f'{"/".join(top) or "."}: add it or remove the image')
        used.add(mask)
        found = _mask_values(root, path, mask)
        values.update(found)
        found = [value for value in found if value != 255]  # which is ignored
        if listed and max(found, default=0) >= len(listed):
            raise ValueError(f'{root / mask} has the value {max(found)}, but there are '
                             f'{len(listed)} names in classes.txt: add its name')
        samples.append(Sample(path.as_posix(), part_of(path.parts[:-1]), found, dict(
            name=name, img_suffix=path.suffix, seg_map_suffix=suffix,
            data_prefix=dict(img_path=prefix, seg_map_path=mask_prefix))))
    for mask, _ in masks.values():
        if mask not in used:
            raise ValueError(f'{root / mask} has no image: add it to images/ or remove '
                             'the mask')
    if values <= {0, 255}:
        raise ValueError(f'the masks in {root}, such as {mask}, have no values but '
                         f'{sorted(values)}, and 255 is ignored: write 1 for objects')
    values -= {255}
    if not listed and values != set(range(len(values))):
        raise ValueError(f'the masks in {root} have the values {sorted(values)}: write '
                         'classes.txt with a name a line, from value 0 on')
    return listed or ['background', *(
        f'class_{i}' for i in range(1, len(values)))], samples


def _mask_values(root: Path, path: Path, mask: Path) -> List[int]:
    """Values in a mask of its image's size."""
    check_size(root / path, image_size(root / mask), f'its mask {root / mask} has')
    with Image.open(root / mask) as image:
        if image.mode not in ('L', 'P'):
            raise ValueError(
                f'{root / mask} is an image of the mode {image.mode}, expected a grey '
                'one or one with a palette, whose values are numbers of classes')
        return np.unique(np.asarray(image)).tolist()


READERS = dict(classes=read_classes, coco=read_coco, voc=read_voc, yolo=read_yolo,
               masks=read_masks)


def _is_coco(path: Path) -> bool:
    return path.suffix == '.json' and b'"images"' in path.read_bytes()


def find_layouts(root: Path, files: List[Path], images: List[Path]) -> Dict[str, Path]:
    """Layouts of a folder, each with a file of it; folders of classes if none other."""
    stems = {path.stem for path in images}
    folders = {name for path in images for name in path.parts[:-1]}
    found: Dict[str, Path] = {}
    for file in files:
        layout = ''
        if _is_coco(root / file):
            layout = 'coco'
        elif file.suffix == '.xml' and b'<annotation' in (root / file).read_bytes():
            layout = 'voc'
        elif file.suffix == '.txt' and file.stem in stems:
            layout = 'yolo'
        elif (file.suffix.lower() in IMAGE_ENDINGS and folders & set(IMAGE_FOLDERS)
              and set(file.parts[:-1]) & set(MASK_FOLDERS)):
            layout = 'masks'
        if layout:
            found.setdefault(layout, file)
    return found


def read_folder(root: Path, task: Optional[str] = None
                ) -> Tuple[str, List[str], List[Sample]]:
    """Read a folder in any of the layouts.

    Args:
        root (Path): The folder.
        task (str, optional): ``'classifier'``, ``'detector'`` or ``'segmentor'``.
            Defaults to None: what the labels are for.

    Returns:
        tuple[str, list[str], list[Sample]]: The task, names of the classes, and all
        samples. If there is no part ``'val'``, a fifth of the images is split off.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If there are no images, no labels, labels of several layouts, or a
            file is wrong; names it and the remedy.
    """
    if not root.is_dir():
        raise FileNotFoundError(f'there is no folder {root}')
    files = sorted(path.relative_to(root) for path in root.rglob('*') if path.is_file()
                   and not path.name.startswith(('.', OWN)))
    images = [path for path in files if path.suffix.lower() in IMAGE_ENDINGS]
    if not images:
        raise ValueError(f'{root} has no image that ends in one of '
                         f'{", ".join(IMAGE_ENDINGS)}')
    found = find_layouts(root, files, images)
    fitting = {k: v for k, v in found.items() if task in (None, TASKS[k])}
    if task == 'classifier' or not found:
        fitting = dict(classes=root)
    if len(fitting) != 1:
        what = ' and '.join(f'{layout} ({root / file})'
                            for layout, file in (fitting or found).items())
        raise ValueError(
            f'{root} has labels of the kinds {what}: remove all but one, or choose by '
            '--task' if fitting else f'{root} has labels for no {task}, only {what}')
    layout, = fitting
    if task not in (None, TASKS[layout]):
        raise ValueError(f'{root} has no labels for a {task}, only folders of images')
    if TASKS[layout] == 'detector' and 'masks' in found:
        images = [path for path in images
                  if not ONLY_MASKS.intersection(path.parts[:-1])]
    names, samples = READERS[layout](root, files, images)
    for image, count in Counter(sample.image for sample in samples).items():
        if count > 1:
            raise ValueError(
                f'{count} entries of the labels in {root} are of one image, {image}: '
                'keep one of them, or put the other images of this name into the '
                'folder')
    if not any(sample.labels for sample in samples):
        raise ValueError(f'{root} has {len(samples)} images, but no {layout} label')
    split_samples(root, samples)
    return TASKS[layout], names, samples


def split_samples(root: Path, samples: List[Sample]) -> None:
    """Split off the part ``'val'`` if there is none.

    Images are grouped by the rarest of their classes. Of each group with two or more,
    a fifth, but at least one, goes to ``'val'``.

    Args:
        root (Path): The folder, for messages.
        samples (list[Sample]): Their parts are changed in place.

    Raises:
        ValueError: If a part would have no label.
    """
    parts = {sample.part for sample in samples}
    if 'val' not in parts:
        given = [s for s in samples if s.part == ('train' if 'train' in parts else '')]
        count = Counter(label for s in given for label in set(s.labels))
        groups = defaultdict(list)
        for sample in sorted(given, key=lambda s: s.image):
            groups[min(sample.labels, key=lambda label: (count[label], label),
                       default=-1)].append(sample)
        for group in groups.values():
            held_out = split_indices(
                len(group), max(1, round(len(group) / 5)), 'val', 0, str(root)
            ) if len(group) > 1 else []
            for i, sample in enumerate(group):
                sample.part = 'val' if i in held_out else 'train'
    for part in 'train', 'val':
        if not any(s.labels for s in samples if s.part == part):
            raise ValueError(
                f'{root} has no image with a label for the part {part!r}: expected at '
                'least two images of a class, or labelled images in train and val')

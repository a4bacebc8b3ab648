# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Put images of a folder into one image, in rows and columns.

The images may be predictions that tools/test.py --show-dir wrote, each with the
annotation left and the prediction right. The tool takes images at even distances from
the sorted names. Images of the same name in several folders are put next to each other,
so all folders must have the same names.
"""
import argparse
import sys
from pathlib import Path
from typing import List

import cv2
import numpy as np

from autonl_mm.runs import configs, outputs
from autonl_mm.runs.atomic_files import atomic_write

SUFFIXES = ('.jpg', '.jpeg', '.png')
GAP = 6  # pixels of white between images


def find_images(folder: Path, count: int) -> List[Path]:
    """At most ``count`` images below a folder, at even distances in the sorted
    names."""
    paths = sorted(
        p for p in folder.rglob('*') if p.suffix.lower() in SUFFIXES)
    if not paths:
        raise FileNotFoundError(f'{folder} has no image ({", ".join(SUFFIXES)})')
    places = np.linspace(0, len(paths) - 1, min(count, len(paths)))
    return [paths[round(i)] for i in places]


def make_sheet(images: List[np.ndarray], columns: int,
               width: int) -> np.ndarray:
    """Resize images ``(H, W, 3)`` to a width, and put them into rows that are as
    high as their highest image."""
    cells = [
        cv2.resize(p, (width, max(1, round(p.shape[0] * width / p.shape[1]))),
                   interpolation=cv2.INTER_AREA if width < p.shape[1] else
                   cv2.INTER_CUBIC) for p in images
    ]
    rows = []
    for i in range(0, len(cells), columns):
        row = cells[i:i + columns]
        height = max(c.shape[0] for c in row)
        sheet = np.full((height, columns * (width + GAP) - GAP, 3), 255,
                        np.uint8)
        for j, cell in enumerate(row):
            left = j * (width + GAP)
            sheet[:cell.shape[0], left:left + width] = cell
        rows += [sheet, np.full((GAP, sheet.shape[1], 3), 255, np.uint8)]
    return np.concatenate(rows[:-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('folders', type=Path, nargs='+', metavar='folder',
                        help='folder of images')
    parser.add_argument('--out', type=Path, required=True,
                        help='file to write, .png or .jpg')
    parser.add_argument('--show-number', type=int, default=6,
                        help='number of images of each folder, default 6')
    parser.add_argument('--columns', type=int, default=2,
                        help='images in a row, default 2')
    parser.add_argument('--width', type=int, default=480,
                        help='width of each image in pixels, default 480')
    args = parser.parse_args()
    try:
        outputs.check_file('--out', args.out, ('.png', '.jpg', '.jpeg'))
        configs.check_positive(args, 'show_number', 'columns', 'width')
        found = [find_images(f, args.show_number) for f in args.folders]
        names = [[p.name for p in paths] for paths in found]
        if any(n != names[0] for n in names):
            raise ValueError('the folders have images of different names: '
                             f'{names[0][0]}, {names[-1][0]}, ...')
    except (FileNotFoundError, ValueError) as e:
        sys.exit(f'contact_sheet.py: {e}')
    paths = [p for row in zip(*found) for p in row]
    images = [cv2.imread(str(p)) for p in paths]
    broken = [str(p) for p, x in zip(paths, images) if x is None]
    if broken:
        sys.exit(f'contact_sheet.py: {broken[0]} is not a readable image')
    sheet = make_sheet(images, args.columns, args.width)
    atomic_write(args.out, cv2.imencode(args.out.suffix, sheet)[1].tobytes())
    print(f'{args.out}: {len(images)} images of '
          f'{", ".join(map(str, args.folders))}')


if __name__ == '__main__':
    main()

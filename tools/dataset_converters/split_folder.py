# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Split the images of each class, sorted by name, into several folders.

    python tools/dataset_converters/split_folder.py data/cifar100/train \
        data/cifar100-split train=300 select=100 final=100

gives data/cifar100-split/train/<class>/* with the first 300 images of each class,
select/ with the next 100, and final/ with the next 100. Files are hard links where the
file system allows it, else copies.
"""
import argparse
import os
import shutil
import sys
from pathlib import Path

from autonl_mm.runs.atomic_files import atomic_dir


def part(text):
    """``NAME=COUNT`` as a pair."""
    name, _, count = text.partition('=')
    if not name or Path(name).name != name or not count.isdigit() or int(count) < 1:
        raise argparse.ArgumentTypeError(
            f'expected NAME=COUNT, such as train=300, got {text!r}')
    return name, int(count)


def split(source: Path, out: Path, parts) -> int:
    """Write the parts; the folder exists only after all files are there.

    Args:
        source (Path): Folder with one folder for each class.
        out (Path): Folder to make.
        parts (list[tuple[str, int]]): Names of the parts, and their images per class.

    Returns:
        int: Classes.

    Raises:
        ValueError: If a class has too few images; names it.
    """
    classes = sorted(p for p in source.iterdir() if p.is_dir())
    if not classes:
        raise ValueError(f'{source} has no folders, expected one for each class')
    needed = sum(count for _, count in parts)
    with atomic_dir(out) as folder:
        for label in classes:
            files = sorted(p for p in label.iterdir() if p.is_file())
            if len(files) < needed:
                raise ValueError(f'{label} has {len(files)} images, the parts need '
                                 f'{needed}')
            files = iter(files)
            for name, count in parts:
                target = folder / name / label.name
                target.mkdir(parents=True)
                for _ in range(count):
                    link(next(files), target)
    return len(classes)


def link(file: Path, folder: Path) -> None:
    """Link a file into a folder, or copy it where links are not possible."""
    try:
        os.link(file, folder / file.name)
    except OSError:
        shutil.copy2(file, folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', type=Path, help='folder of folders of images')
    parser.add_argument('out', type=Path, help='folder to make')
    parser.add_argument(
        'parts', type=part, nargs='+', metavar='NAME=COUNT',
        help='images of each class in a part')
    args = parser.parse_args()
    try:
        if args.out.exists():
            raise FileExistsError(f'{args.out} exists: remove it first')
        count = split(args.source, args.out, args.parts)
    except (OSError, ValueError) as e:
        sys.exit(f'split_folder.py: {e}')
    print(f'{count} classes in {args.out}: '
          + ', '.join(f'{name} {n} images each' for name, n in args.parts))


if __name__ == '__main__':
    main()

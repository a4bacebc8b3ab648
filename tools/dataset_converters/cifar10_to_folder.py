# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Write CIFAR-10's training images to OUT/train/<class>/<number>.png.

torchvision downloads them, unless the archive is in OUT.
"""
import argparse
import sys
from pathlib import Path

from torchvision.datasets import CIFAR10
from tqdm import tqdm

from autonl_mm.runs.atomic_files import atomic_dir


def write_folder(dataset, out: Path) -> int:
    """Write pairs of PIL image and label into one folder per class. The folder
    exists only after all images are written."""
    if out.exists():
        raise FileExistsError(f'{out} exists: remove it first')
    with atomic_dir(out) as folder:
        for name in dataset.classes:
            (folder / name).mkdir()
        for i, (image, label) in enumerate(tqdm(dataset, unit='img')):
            image.save(folder / dataset.classes[label] / f'{i:05d}.png')
    return len(dataset)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('out', type=Path, help='folder, for example data/cifar10')
    args = parser.parse_args()
    try:
        if (args.out / 'train').exists():
            raise FileExistsError(f'{args.out / "train"} exists: remove it first')
        dataset = CIFAR10(args.out, train=True, download=True)
        count = write_folder(dataset, args.out / 'train')
    except (OSError, RuntimeError) as e:
        sys.exit(f'cifar10_to_folder.py: {e}')
    print(f'{count} images in {args.out / "train"}')


if __name__ == '__main__':
    main()

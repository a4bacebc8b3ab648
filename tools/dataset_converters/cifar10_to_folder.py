# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Write CIFAR-10's training images to OUT/train/<class>/<number>.png.

torchvision downloads them, or finds the archive in OUT.
"""
import argparse
import sys
from pathlib import Path

from torchvision.datasets import CIFAR10
from tqdm import tqdm


def write_folder(dataset, out: Path) -> int:
    """Write a dataset of (PIL image, label), with ``classes``, as a folder.

    Args:
        dataset (Sequence): The images.
        out (Path): Must not exist; appears once all images are written.

    Returns:
        int: How many images were written.

    Raises:
        FileExistsError: If ``out`` exists.
    """
    if out.exists():
        raise FileExistsError(f'{out} exists: remove it first')
    partial = out.with_name(out.name + '.part')
    for name in dataset.classes:
        (partial / name).mkdir(parents=True, exist_ok=True)
    for i, (image, label) in enumerate(tqdm(dataset, unit='img')):
        image.save(partial / dataset.classes[label] / f'{i:05d}.png')
    partial.rename(out)
    return len(dataset)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('out', type=Path, help='for example data/cifar10')
    args = parser.parse_args()
    try:
        if (args.out / 'train').exists():
            raise FileExistsError(f'{args.out / "train"} exists already')
        dataset = CIFAR10(args.out, train=True, download=True)
        count = write_folder(dataset, args.out / 'train')
    except (OSError, RuntimeError) as e:
        sys.exit(f'cifar10_to_folder.py: {e}')
    print(f'{count} images in {args.out / "train"}')


if __name__ == '__main__':
    main()

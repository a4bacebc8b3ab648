# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Convert the authors' AutoNL weights to a checkpoint of a classifier."""
import argparse
import os.path as osp
import sys
import zipfile
import zlib
from collections import defaultdict
from pathlib import Path

import numpy as np
from mmengine.runner import save_checkpoint

from autonl_mm.arch import resolve_arch
from autonl_mm.converters import tf_release, torch_release
from autonl_mm.cost import count_macs
from autonl_mm.models import AutoNL
from autonl_mm.runs import outputs
from autonl_mm.runs.checkpoints import (
    BrokenCheckpointError,
    UnsafeCheckpointError,
    check_file,
    load_checkpoint,
)
from autonl_mm.runs.digest import digest

RELEASES = dict(tf=tf_release, torch=torch_release)
INDEX, DATA = '.index', '.data-00000-of-'


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'src',
        help='PyTorch: a .pt file. TensorFlow: prefix, .index file or folder of '
        'a checkpoint, or a .npz dump of its variables')
    parser.add_argument('dst', help='checkpoint to write, .pth')
    parser.add_argument(
        '--arch',
        required=True,
        help="'s', 'l' or a file in the authors' notation")
    parser.add_argument(
        '--source',
        choices=['auto', 'torch', 'tf'],
        default='auto',
        help='release of the weights; auto recognises it from the files')
    parser.add_argument(
        '--no-ema',
        action='store_true',
        help='convert the weights instead of their moving averages')
    return parser.parse_args(argv)


def find_tf_prefix(src):
    """The prefix of the TensorFlow checkpoint at a path.

    Args:
        src (str): Prefix, .index file, data file or folder of a checkpoint.

    Returns:
        str, optional: None if there is no TensorFlow checkpoint.

    Raises:
        ValueError: If the path is a folder without exactly one checkpoint.
    """
    if osp.isdir(src):
        found = sorted(Path(src).glob(f'*{INDEX}'))
        if len(found) != 1:
            raise ValueError(
                f'{src} is a folder with {len(found)} TensorFlow checkpoints '
                f'(*{INDEX}), expected one: name the file')
        src = str(found[0])
    for part in (INDEX, DATA):
        prefix, found, _ = src.rpartition(part)
        if found and osp.isfile(src):
            return prefix
    return src if osp.isfile(src + INDEX) else None


def is_npz(src):
    """Whether a file is a .npz archive of arrays, possibly a broken one.

    Raises:
        BrokenCheckpointError: If it is an archive that is damaged, or that unpacks to
            far more than its size.
    """
    if not check_file(src):
        return src.endswith('.npz')
    with zipfile.ZipFile(src) as archive:
        return all(name.endswith('.npy') for name in archive.namelist())


def read_npz(src):
    """All arrays of a .npz archive, by name.

    Raises:
        ValueError: If it is broken or has Python objects.
    """
    try:
        with np.load(src, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    # a header may declare any shape
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error,
            MemoryError, OverflowError) as e:
        raise ValueError(
            f'{src} ({osp.getsize(src)} bytes) is truncated or not an archive '
            f'of plain arrays ({e}): dump or copy it again') from None


def read_tf_checkpoint(prefix):
    """All variables of a TensorFlow checkpoint, by name.

    Raises:
        ValueError: If tensorflow cannot be imported or the files are broken.
    """
    try:
        import tensorflow as tf
    except ImportError as e:  # not installed, or broken
        raise ValueError(
            f'{prefix} is a TensorFlow checkpoint, which needs tensorflow ({e}): '
            "pip install -e '.[tensorflow]', or dump it to a .npz file on a "
            'machine that has tensorflow, see tools/model_converters/README.md'
        ) from None
    try:
        reader = tf.train.load_checkpoint(prefix)
        return {
            name: reader.get_tensor(name)
            for name in sorted(reader.get_variable_to_shape_map())
        }
    except MemoryError:
        raise
    except Exception as e:  # the type differs between versions of tensorflow
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise ValueError(f'the TensorFlow checkpoint {prefix} is truncated or '
                         f'incomplete ({reason}): download its files again, '
                         f'{INDEX} and {DATA}*') from None


def read_source(src, source):
    """Read the weights of a release.

    Args:
        src (str): File, folder or prefix, as on the command line.
        source (str): ``'auto'``, ``'torch'`` or ``'tf'``.

    Returns:
        tuple[str, dict]: The release, ``'tf'`` or ``'torch'``, and the content
        of its files by name.

    Raises:
        FileNotFoundError: If there is no such file.
        BrokenCheckpointError: If it is a damaged archive.
        ValueError: If it cannot be read.
    """
    prefix = find_tf_prefix(src) if source != 'torch' else None
    if prefix is not None:
        return 'tf', read_tf_checkpoint(prefix)
    if not osp.isfile(src):
        raise FileNotFoundError(
            f'{src!r} does not exist, neither as a file nor as the prefix of '
            f'a TensorFlow checkpoint ({src}{INDEX})')
    npz = is_npz(src)
    if source == 'tf' and not npz:
        raise ValueError(f'{src} is neither a TensorFlow checkpoint nor a '
                         '.npz archive of plain arrays')
    if npz and source != 'torch':
        return 'tf', read_npz(src)
    content = load_checkpoint(src)
    if not isinstance(content, dict):
        raise ValueError(f'{src} has a {type(content).__name__}, expected a '
                         'state dict or a training checkpoint')
    return 'torch', content


def check_complete(state, arch):
    """Compare names and shapes of converted weights with the network's.

    Args:
        state (dict[str, Tensor]): Converted weights of a classifier.
        arch (ArchSpec): The network.

    Raises:
        ValueError: If they differ.
    """
    built = {
        f'backbone.{k}': v.shape
        for k, v in AutoNL(arch, out_indices=(-1, )).state_dict().items()
    }
    got = {k: v.shape for k, v in state.items() if k.startswith('backbone.')}
    if built != got:
        differ = sorted(k for k in built.keys() | got.keys()
                        if built.get(k) != got.get(k))
        raise ValueError(f'{len(differ)} converted tensors do not fit the '
                         f'network, such as {differ[0]}')


def main(argv=None):
    args = parse_args(argv)
    try:
        outputs.check_file('dst', args.dst)
        if osp.exists(args.dst) and osp.realpath(args.dst) == osp.realpath(
                args.src):
            raise ValueError(f'{args.dst} is the source file: give another name')
        arch = resolve_arch(args.arch, 'size')  # as the authors' weights
        release, source = read_source(args.src, args.source)
        converter = RELEASES[release]
        weights, left_out = converter.select(source, ema=not args.no_ema)
        state = converter.convert(weights, arch)
        check_complete(state, arch)
    except (OSError, ValueError, BrokenCheckpointError,
            UnsafeCheckpointError) as e:
        sys.exit(f'autonl_to_mm.py: {e}')

    averaged = any('replaced by' in reason for reason in left_out.values())
    meta = dict(
        arch=arch.to_text(), release=release, moving_average=averaged)
    save_checkpoint(dict(meta=meta, state_dict=state), args.dst)

    groups = defaultdict(list)
    for name, reason in left_out.items():
        groups[reason].append(name)
    for reason, names in groups.items():
        more = ', ...' if len(names) > 1 else ''
        print(f'left out: {reason}, {len(names)} ({names[0]}{more})')
    kind = 'moving averages' if averaged else 'the weights themselves'
    num_classes = len(state['head.fc.bias'])
    params = sum(t.numel() for name, t in state.items()
                 if not name.endswith(('running_mean', 'running_var',
                                       'num_batches_tracked')))
    print(f'{args.dst}: {release} release, {kind}; {len(weights)} tensors '
          f'used, {len(left_out)} left out, {len(state)} written; '
          f'{params:,} parameters, '
          f'{count_macs(arch, 224, num_classes).total:,} MACs at 224x224, '
          f'{num_classes} classes, sha256 {digest(Path(args.dst))}')


if __name__ == '__main__':
    main()

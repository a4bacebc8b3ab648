# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Write the weights of a training checkpoint to a file to publish.

For a run with mmengine's EMA hook these are the averaged weights, which the hook saves
as ``state_dict``.
"""
import argparse
import hashlib
import io
import os.path as osp
import sys

import torch
from mmengine.fileio import get_file_backend

import autonl_mm  # noqa: F401
from autonl_mm.runs import outputs
from autonl_mm.runs.checkpoints import (
    BrokenCheckpointError,
    UnsafeCheckpointError,
    load_checkpoint,
    weights_of,
)

SAFETENSORS = '.safetensors'


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('src', help='checkpoint of any codebase')
    parser.add_argument(
        'dst',
        help='file to write, .pth or .safetensors; its name gets the first eight '
        'digits of its SHA-256')
    parser.add_argument(
        '--safetensors',
        action='store_true',
        help='write a .safetensors file too')
    return parser.parse_args(argv)


def pick_weights(checkpoint, source):
    """The weights of a checkpoint.

    Args:
        checkpoint (dict): A checkpoint with ``state_dict``, or a state dict.
        source (str): Name of the checkpoint, for the message.

    Returns:
        dict[str, Tensor]: The weights, on the CPU. No two tensors share memory.

    Raises:
        ValueError: If there is no state dict, or a value is not a tensor.
    """
    state = weights_of(checkpoint, source)
    if not state:
        raise ValueError(f'{source} has no state_dict, or an empty one')
    other = [k for k, v in state.items() if not isinstance(v, torch.Tensor)]
    if other:
        raise ValueError(f'the state_dict of {source} has {len(other)} entries that '
                         f'are not tensors, such as {other[0]}')
    return {
        str(k): v.detach().cpu().contiguous().clone()
        for k, v in state.items()
    }


def serialize(weights, dst):
    """The bytes of a file with the weights, in the format of the file name."""
    if dst.endswith(SAFETENSORS):
        try:
            from safetensors.torch import save
        except ImportError:
            raise ValueError(f'{dst} needs safetensors: '
                             'pip install safetensors') from None
        return save(weights)
    buffer = io.BytesIO()
    torch.save(dict(state_dict=weights), buffer)
    return buffer.getvalue()


def main(argv=None):
    args = parse_args(argv)
    names = [args.dst]
    stem, extension = osp.splitext(args.dst)
    if args.safetensors and extension != SAFETENSORS:
        names.append(stem + SAFETENSORS)
    try:
        if extension not in ('.pth', SAFETENSORS):
            raise ValueError(f'{args.dst!r} must end in .pth or {SAFETENSORS}')
        if '://' not in args.dst:
            outputs.check_file('dst', args.dst)
        checkpoint = load_checkpoint(args.src)
        weights = pick_weights(checkpoint, args.src)
        files = {name: serialize(weights, name) for name in names}
    except (OSError, ValueError, BrokenCheckpointError,
            UnsafeCheckpointError) as e:
        sys.exit(f'publish_model.py: {e}')

    dropped = [k for k in checkpoint if k != 'state_dict'] \
        if 'state_dict' in checkpoint else []
    if dropped:
        print(f'left out: {", ".join(map(str, dropped))}')
    kind = 'EMA weights' if 'ema_state_dict' in dropped else 'weights'
    for name, content in files.items():
        digest = hashlib.sha256(content).hexdigest()
        stem, extension = osp.splitext(name)
        path = f'{stem}-{digest[:8]}{extension}'
        get_file_backend(path).put(content, path)
        params = sum(t.numel() for t in weights.values())
        print(f'{path}: {kind}, {len(weights)} tensors of {params:,} numbers, '
              f'{len(content):,} bytes, sha256 {digest}')


if __name__ == '__main__':
    main()

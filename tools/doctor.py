# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Report what is installed, which tasks work, and how to fix the others.

The exit code is 0 if classification, detection and segmentation all work.
"""
import importlib
import importlib.metadata
import platform
import sys
import warnings

# import name: distributions that provide it, the official one first
LIBRARIES = dict(
    torch=['torch'],
    torchvision=['torchvision'],
    numpy=['numpy'],
    cv2=['opencv-python', 'opencv-python-headless'],
    mmengine=['mmengine', 'onedl-mmengine'],
    mmcv=['mmcv', 'mmcv-lite', 'onedl-mmcv'],
    mmpretrain=['mmpretrain', 'onedl-mmpretrain'],
    mmdet=['mmdet', 'onedl-mmdetection'],
    mmseg=['mmsegmentation', 'onedl-mmsegmentation'],
    autonl_mm=['autonl_mm'])
TASKS = dict(
    classification=('mmpretrain', False),
    detection=('mmdet', True),
    segmentation=('mmseg', True))
SETUP = 'run make setup'
FIXES = [  # part of an error's text, and the fix; the first match counts
    ('libGL', 'install libgl1 (Debian: apt-get install libgl1) or replace '
     'opencv-python by opencv-python-headless'),
    ('libtorch_cuda', 'install torch and torchvision as a pair: ' + SETUP),
    ('pkg_resources', "pip install 'setuptools<81'"),
    ('ftfy', 'pip install ftfy'),
    ("'regex'", 'pip install regex'),
    ('transformers', "pip install 'transformers<5'"),
    ('mmcv._ext', 'mmcv lacks its compiled operators: ' + SETUP),
    ('undefined symbol', "mmcv's operators were compiled for another torch: remove "
     'the environment, then ' + SETUP),
    ('MMCV==', "mmcv's version does not fit: " + SETUP),
]


def fix_for(error: str) -> str:
    """How to fix an import error, from its text."""
    return next((fix for sign, fix in FIXES if sign in error), SETUP)


def try_import(name: str) -> str:
    """Import a module. Return the error's text, or '' without an error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            importlib.import_module(name)
        return ''
    except Exception as e:  # a broken library may raise anything
        return f'{type(e).__name__}: {e}'.split('\n')[0]


def version_of(distributions) -> str:
    """Name and version of the first installed distribution, or ''."""
    for name in distributions:
        try:
            return f'{name} {importlib.metadata.version(name)}'
        except importlib.metadata.PackageNotFoundError:
            continue
    return ''


def run_ops() -> str:
    """Run mmcv's compiled NMS. Return the error's text, or '' without one."""
    error = try_import('mmcv.ops')
    if error:
        return error
    import torch
    from mmcv.ops import nms
    devices = ['cpu'] + ['cuda'] * torch.cuda.is_available()
    for device in devices:
        boxes = torch.tensor([[0., 0., 9., 9.], [0., 0., 9., 8.]])
        try:
            _, keep = nms(
                boxes.to(device),
                torch.tensor([0.5, 0.9]).to(device),
                iou_threshold=0.5)
        except Exception as e:  # such as a missing kernel for this device
            return f'nms on {device}: {type(e).__name__}: {e}'.split('\n')[0]
        if keep.tolist() != [1]:
            return f'nms on {device} kept {keep.tolist()}, expected [1]'
    return ''


def main() -> int:
    print(f'Python {platform.python_version()}, {platform.platform()}')
    errors = {}
    for module, distributions in LIBRARIES.items():
        version = version_of(distributions)
        errors[module] = try_import(module)
        line = f'{module:12} {version or "not installed"}'
        if version and errors[module]:
            line += f' - cannot be imported: {errors[module]}'
        print(line)
    if not errors['torch']:
        import torch
        cuda = torch.version.cuda
        state = (f'{torch.cuda.device_count()} GPU(s)'
                 if torch.cuda.is_available() else 'no GPU, everything runs on the CPU')
        print(f'CUDA         torch built for {cuda or "CPU only"}; {state}')
    # A bare import succeeds where packages that the networks need are missing.
    for library, _ in TASKS.values():
        for part in ('models', 'datasets'):
            errors[library] = errors[library] or try_import(f'{library}.{part}')
    ops_error = run_ops() if not errors['mmcv'] else errors['mmcv']
    print(f'mmcv ops     {ops_error or "work"}')

    print()
    failed = False
    base = [m for m in ('torch', 'mmengine', 'mmcv', 'autonl_mm')
            if errors[m]]
    for task, (library, needs_ops) in TASKS.items():
        problem = next((errors[m] for m in base), '') or errors[library]
        if not problem and needs_ops:
            problem = ops_error
        if problem:
            failed = True
            print(f'{task:15} will not work: {problem}\n'
                  f'{"":15} fix: {fix_for(problem)}')
        else:
            print(f'{task:15} works')
    return int(failed)


if __name__ == '__main__':
    sys.exit(main())

# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Scripts in processes that need not import the libraries again.

A fresh interpreter takes 12 seconds to import torch and the OpenMMLab libraries,
longer than most tools run. So a server process imports them once, and each script
runs in a fork of it. autonl_mm is not imported there: a script does that itself.

This module imports only the standard library, as the forks import it too.
"""
import functools
import gc
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from types import SimpleNamespace

# mmengine imports setuptools to describe the environment
LIBRARIES = ['setuptools', 'torch', 'mmengine.runner', 'mmcv.ops', 'mmpretrain.models',
             'mmpretrain.datasets', 'mmpretrain.engine', 'mmpretrain.visualization',
             'mmdet.models', 'mmdet.datasets', 'mmdet.apis', 'mmseg.models',
             'mmseg.datasets', 'matplotlib.pyplot', 'onnxruntime']
# The project is compiled once, not by each fork, whatever PYTHONDONTWRITEBYTECODE says.
sys.dont_write_bytecode = False


@functools.cache
def server():
    """The context whose processes are forks of the server."""
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(LIBRARIES)
    return context


def spare_mmengine():
    """Let mmengine do without what takes its time and changes no result.

    The text of a config is not laid out, which takes 0.4 seconds each time that one is
    logged, dumped or saved. No dataset collects garbage when it is built, which takes
    up to 0.7 seconds with all libraries imported. For each config of another codebase
    all metafiles are read, in 0.3 seconds, and pkg_resources is imported again.
    """
    from mmengine.config import config, utils
    from mmengine.dataset import base_dataset
    from yapf.yapflib import yapf_api
    # upstream and the forks import it at different times
    config.FormatCode = yapf_api.FormatCode = lambda text, **kwargs: (text, False)
    base_dataset.gc = SimpleNamespace(collect=lambda: None)
    utils.load = functools.cache(utils.load)
    config.is_installed = functools.cache(config.is_installed)


def _run(script, arguments, cwd, env, output):
    """In the fork: what ``python script arguments`` does."""
    file = os.open(output, os.O_WRONLY)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout = os.fdopen(1, 'w', buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, 'w', buffering=1, closefd=False)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    spare_mmengine()
    gc.freeze()  # what the server imported stays
    # The server has read the variable when it imported torch.
    if 'OMP_NUM_THREADS' in env:
        import torch
        torch.set_num_threads(int(env['OMP_NUM_THREADS']))
    sys.argv = [script, *arguments]
    sys.path[:0] = [os.path.dirname(script), *env.get('PYTHONPATH', '').split(':')]
    runpy.run_path(script, run_name='__main__')


def run_script(script, arguments, cwd, env, timeout):
    """Run a Python script in a fork of the server.

    Args:
        script (str): Path.
        arguments (list[str]): Of its command line.
        cwd (str): Working folder.
        env (dict[str, str]): All environment variables.
        timeout (int): Seconds after which it is killed.

    Returns:
        CompletedProcess: With ``stdout``, which has stderr in it.

    Raises:
        TimeoutExpired: If it takes longer.
    """
    with tempfile.NamedTemporaryFile() as output:
        process = server().Process(
            target=_run, args=(script, arguments, str(cwd), env, output.name))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(script, timeout)
        with open(output.name, errors='replace') as file:
            text = file.read()
    return subprocess.CompletedProcess([script, *arguments], process.exitcode, text)

# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Time an exported model in the Python package of its engine.

run_on_device.py uses this file where the engine's own benchmark program is not at hand:
on this machine, and on computers that are reached by ssh. It needs NumPy and the
engine only, so that it runs as a copy where this project and torch are missing.
"""
import argparse
import statistics
import time
from pathlib import Path

import numpy as np


def onnxruntime(file, image, threads):
    import onnxruntime as ort
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(
        str(file), options, providers=['CPUExecutionProvider'])
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: image})


def openvino(file, image, threads):
    import openvino as ov
    model = ov.Core().compile_model(file, 'CPU', dict(
        INFERENCE_PRECISION_HINT='f32', INFERENCE_NUM_THREADS=threads))
    return lambda: model([image])


def mnn(file, image, threads):
    from MNN import expr, nn
    manager = nn.create_runtime_manager(
        (dict(backend='CPU', numThread=threads, precision='high'), ))
    network = nn.load_module_from_file(
        str(file), ['input'], ['output'], runtime_manager=manager)

    def run():
        return network.forward(
            [expr.const(image, list(image.shape), expr.NCHW)])[0].read()

    return run


def ncnn(file, image, threads):
    import ncnn
    network = ncnn.Net()
    network.opt.num_threads = threads
    for status in (network.load_param(str(file)),
                   network.load_model(str(file.with_suffix('.bin')))):
        if status:
            raise SystemExit(f'ncnn does not load {file} (status {status})')

    def run():
        extractor = network.create_extractor()
        extractor.input('in0', ncnn.Mat(image[0]))
        return extractor.extract('out0')

    return run


def litert(file, image, threads):
    from ai_edge_litert.interpreter import Interpreter
    runner = Interpreter(
        str(file), num_threads=threads).get_signature_runner('serving_default')
    return lambda: runner(args_0=image)


def executorch(file, image, threads):
    import torch
    from executorch.extension.pybindings import portable_lib
    from executorch.runtime import Runtime
    portable_lib._unsafe_reset_threadpool(threads)
    program = Runtime.get().load_program(str(file))
    method, inputs = program.load_method('forward'), [torch.from_numpy(image)]
    return lambda program=program: method.execute(inputs)  # which must live as long


ENGINES = {f.__name__: f for f in (
    onnxruntime, openvino, mnn, ncnn, litert, executorch)}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('file', type=Path, help='exported model')
    parser.add_argument('--engine', choices=list(ENGINES), required=True)
    parser.add_argument('--shape', required=True, help='N,C,H,W of the input')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--runs', type=int, default=20)
    args = parser.parse_args()
    shape = [int(n) for n in args.shape.split(',')]
    image = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    run = ENGINES[args.engine](args.file, image, args.threads)
    for _ in range(3):
        run()
    times = []
    for _ in range(args.runs):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    print(f'Median: {1e3 * statistics.median(times):.6f} ms')


if __name__ == '__main__':
    main()

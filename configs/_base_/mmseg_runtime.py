_base_ = 'default_runtime.py'

default_scope = 'mmseg'
default_hooks = dict(
    visualization=dict(type='SegVisualizationHook', draw=False))
visualizer = dict(
    type='SegLocalVisualizer',
    name='visualizer',
    vis_backends=_base_.vis_backends)

_base_ = 'default_runtime.py'

default_scope = 'mmdet'
default_hooks = dict(
    visualization=dict(type='DetVisualizationHook', draw=False))
visualizer = dict(
    type='DetLocalVisualizer',
    name='visualizer',
    vis_backends=_base_.vis_backends)

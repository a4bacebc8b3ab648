# mmcv's conventional block in the same places as retinanet_r50-lightnl, for comparison.
_base_ = 'retinanet_r50-lightnl_fpn_1x_coco.py'

model = dict(
    backbone=dict(plugins=[
        dict(
            cfg=dict(
                type='NonLocal2d',
                mode='dot_product',
                norm_cfg=dict(type='SyncBN')),
            stages=(False, True, True, False),
            position='after_conv3')
    ]))

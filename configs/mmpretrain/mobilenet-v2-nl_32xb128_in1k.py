# A conventional non-local block, with four 1x1 convolutions of full width and the
# full affinity, in the 17 places of mobilenet-v2-light-nl. After the first block the
# affinity has 12,544 x 12,544 entries per image, which is 600 MiB.
_base_ = 'mobilenet-v2-light-nl_32xb128_in1k.py'

model = dict(
    backbone=dict(plugins=[
        dict(
            cfg=dict(
                type='NonLocal2d',
                reduction=1,
                mode='dot_product',
                norm_cfg=_base_.norm_cfg),
            target=r'layer\d\.\d+\.conv'),
    ]))

"""RTMDet of size s with a narrow RevCol, COCO 2017: a one-stage detector for real time.

Run:    python tools/train.py configs/revcol_rtmdet_coco.py

                       parameters   GMACs at 224x224   at 640x640
RevCol, nano               4.18 M               0.62         5.04   (the CSPNeXt-s it replaces: 4.38 M, 0.66, 5.37)
the whole detector         6.04 M                            11.59  (RTMDet-s: 8.89 M, 14.76)

The finest level, stride 4, stays in the backbone; half the channels of CSPNeXt's levels make the neck smaller, too. The
recipe is RTMDet's: 300 epochs, AdamW 0.004 for 256 images a step (8 GPUs of 32), moving average of the weights, mosaic
and mixup up to epoch 280.
"""

_base_ = "mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py"
custom_imports = dict(imports=["backbones"], allow_failed_imports=False)
checkpoint = None  # CSPNeXt's

model = dict(
    # RTMDet's own is BGR; these backbones' weights are for RGB.
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True),
    backbone=dict(_delete_=True, type="RevCol", arch="nano", out_indices=(1, 2, 3)),
    neck=dict(in_channels=[64, 128, 256]),
)
# As in RevCol's own recipes, neither shortcut scales nor layer scales decay; RTMDet's spares norms and biases.
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={"alpha": dict(decay_mult=0.0), "gamma": dict(decay_mult=0.0)}),
)

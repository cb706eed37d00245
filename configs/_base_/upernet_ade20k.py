"""UPerNet on ADE20K, 160k iterations of mixed precision: the recipe that BEiT, MAE, ConvNeXt and RevCol share.

AdamW for 16 images a step (8 GPUs of 2), crops of 512x512, linear warm-up over 1500 iterations, then linear decay to 0.
"""

# mmseg's own file, found where mmseg is installed: "mmseg::" is resolved by upstream's mmengine only.
_base_ = (
    f"{__import__('mmseg').__path__[0]}/.mim/configs/convnext/convnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py"
)
custom_imports = dict(imports=["backbones"], allow_failed_imports=False)
checkpoint_file = None  # ConvNeXt's

optim_wrapper = dict(constructor="DenseLayerDecayOptimWrapperConstructor", paramwise_cfg=dict(_delete_=True))
auto_scale_lr = dict(enable=False, base_batch_size=16)

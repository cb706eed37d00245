"""Small archs of every dense backbone."""

VIT = dict(embed_dims=48, depth=4, num_heads=2)
_OTHERS = {
    "RevCol": dict(channels=(16, 32, 64, 128), depths=(1, 1, 1, 1), num_columns=2),
    "RevColViT": dict(embed_dims=48, depths=(1, 1, 1, 1), num_heads=2, num_columns=2),
    "HybridViT": dict(VIT, stage_depths=(1, 1, 1), stage_channels=(128, 256, 512), stem_channels=32),
}


def small_arch(name: str) -> dict:
    return _OTHERS.get(name, VIT)

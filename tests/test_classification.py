"""Classifiers: logits and losses are those of the official code, and official files load whole."""

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from safetensors.torch import save_file

pytest.importorskip("mmpretrain")

import timm
from mmpretrain.structures import DataSample

import backbones.classification  # noqa: F401  (registers)
from backbones.checkpoints import CheckpointError, load_pretrained
from backbones.classification import DenseClassifier, soft_distillation


def official(source: dict, name: str) -> dict:
    """A fixture's constructor arguments as an arch of ours."""
    config = source["config"]
    if name.startswith("revcol"):
        return dict(
            channels=config["channels"],
            depths=config["layers"],
            num_columns=config["num_subnet"],
            top_link=name == "revcol_huge",
        )
    arch = dict(embed_dims=config["embed_dim"], depth=config["depth"], num_heads=config["num_heads"])
    arch["mlp_ratio"] = config["mlp_ratio"]
    if name == "deepvit":
        arch.update(
            apply_transform=config["apply_transform"],
            cnn_stem=config["use_cnn_embed"],
            transform_scale=config["transform_scale"],
            scale_adjustment=config["scale_adjustment"],
        )
    if name == "hybrid":
        arch.update(stage_depths=config["layers"], stage_channels=config["channels"], stem_channels=config["stem_chs"])
    return arch


MODELS_OF = {  # fixture: backbone, head
    "revcol": ("RevCol", "SupervisedRevColHead"),
    "revcol_22k": ("RevCol", "SupervisedRevColHead"),
    "revcol_huge": ("RevCol", "SupervisedRevColHead"),
    "vit": ("ViTTrunk", "ClassTokenHead"),
    "deit_distilled": ("DeiTTrunk", "DistilledHead"),
    "cait": ("CaiTTrunk", "CaiTHead"),
    "cait_official": ("CaiTTrunk", "CaiTHead"),
    "ceit": ("CeiTTrunk", "CeiTHead"),
    "deepvit": ("DeepViTTrunk", "ClassTokenHead"),
    "deepvit_plain": ("DeepViTTrunk", "ClassTokenHead"),
    "hybrid": ("HybridViTTrunk", "ClassTokenHead"),
}


def build(source: dict, name: str, head: str | None = None, num_classes: int | None = None, **kwargs):
    init_default_scope("mmpretrain")
    backbone, head_type = MODELS_OF[name]
    settings = dict(type=backbone, arch=official(source, name))
    if backbone != "RevCol":
        settings.update(img_size=source["config"]["img_size"])
    settings.update(kwargs)
    num_classes = num_classes or source["config"]["num_classes"]
    return MODELS.build(
        dict(type="DenseClassifier", backbone=settings, head=dict(type=head or head_type, num_classes=num_classes))
    )


@pytest.fixture(params=MODELS_OF)
def case(request, fixtures, tmp_path):
    """(name, fixture, classifier with the fixture's weights, loaded as an official file)."""
    source = torch.load(fixtures / f"{request.param}.pt", weights_only=True)
    torch.save({"model": source["state_dict"]}, tmp_path / "official.pth")
    model = build(source, request.param)
    model.init_cfg = dict(type="Pretrained", checkpoint=str(tmp_path / "official.pth"))
    model.init_weights()
    return request.param, source, model.eval()


def close(got, expected, tolerance=1e-5):
    torch.testing.assert_close(got, expected, rtol=0, atol=tolerance * float(expected.detach().abs().max()))


def test_logits_are_the_official_ones(case):
    name, source, model = case
    with torch.no_grad():
        logits = model(source["input"])
    close(logits, source["logits"][-1] if name.startswith("revcol") else source["logits"])


def test_official_file_loads_whole(case, tmp_path):
    _, source, model = case
    report = load_pretrained(model, tmp_path / "official.pth")
    assert report.complete
    assert report.skipped == []
    assert sorted(report.loaded) == sorted(model.state_dict())
    assert len(report.loaded) == len(source["state_dict"])


def test_head_of_other_classes_is_reset_on_demand(case, tmp_path):
    name, source, model = case
    heads = {
        key
        for key, value in model.state_dict().items()
        if key[:5] == "head." and value.shape[:1] == (source["config"]["num_classes"],)
    }
    torch.save(source["state_dict"], tmp_path / "official.pth")
    settings = dict(type="Pretrained", checkpoint=str(tmp_path / "official.pth"))
    other = build(source, name, num_classes=source["config"]["num_classes"] + 3)
    other.init_cfg = settings
    with pytest.raises(CheckpointError, match="another number of classes.*reset_head=True"):
        other.init_weights()
    other.init_cfg = settings | dict(reset_head=True)
    other.init_weights()
    mine, official = other.state_dict(), model.state_dict()
    assert {key for key in mine if mine[key].shape != official[key].shape} == heads != set()
    for key in mine.keys() - heads:
        torch.testing.assert_close(mine[key], official[key], rtol=0, atol=0)


@pytest.mark.parametrize(("name", "classes"), [("revcol_22k", 10), ("revcol", 1001)])
def test_decoders_of_the_other_kind_are_reset_with_the_head(name, classes, fixtures, tmp_path):
    source = torch.load(fixtures / f"{name}.pt", weights_only=True)
    torch.save(source["state_dict"], tmp_path / "official.pth")
    model = build(source, name, num_classes=classes)
    model.init_cfg = dict(type="Pretrained", checkpoint=str(tmp_path / "official.pth"), reset_head=True)
    model.init_weights()
    mine = model.state_dict()
    for key, value in source["state_dict"].items():
        if "decoder" not in key and "classifier.1" not in key:
            torch.testing.assert_close(mine[model.published_name(key)], value, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["cait", "deepvit", "vit"])
@pytest.mark.parametrize("wrapper", ["module.", "state_dict", "safetensors"])
def test_official_file_loads_whole_from_any_wrapper(name, wrapper, fixtures, tmp_path):
    source = torch.load(fixtures / f"{name}.pt", weights_only=True)
    weights, path = source["state_dict"], tmp_path / "official.pth"
    if wrapper == "module.":
        torch.save({"model": {f"module.{key}": value for key, value in weights.items()}}, path)
    elif wrapper == "state_dict":
        torch.save({"state_dict": weights, "epoch": 3, "arch": "a_name"}, path)
    else:
        path = tmp_path / "official.safetensors"
        save_file({key: value.contiguous() for key, value in weights.items()}, path)
    model = build(source, name).eval()
    report = load_pretrained(model, path)
    assert report.complete
    assert report.skipped == []
    with torch.no_grad():
        close(model(source["input"]), source["logits"])


def test_mean_pool_head_is_timm_s():
    theirs = timm.models.VisionTransformer(
        img_size=32, patch_size=16, embed_dim=24, depth=2, num_heads=2, num_classes=7, global_pool="avg", fc_norm=True
    ).eval()
    for p in theirs.parameters():
        torch.nn.init.normal_(p, std=0.3)
    init_default_scope("mmpretrain")
    backbone = dict(type="ViTTrunk", arch=dict(embed_dims=24, depth=2, num_heads=2), img_size=32)
    model = DenseClassifier(backbone, dict(type="MeanPoolHead", num_classes=7)).eval()
    own, given = model.state_dict(), theirs.state_dict()
    names = {model.published_name(key): value for key, value in given.items()}
    assert names.keys() == own.keys()
    model.load_state_dict(names)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        close(model(x), theirs(x))
        close(
            model.extract_feat(x, stage="pre_logits"), theirs.forward_head(theirs.forward_features(x), pre_logits=True)
        )
        tokens = model.extract_feat(x, stage="backbone")
    assert tokens.shape == (2, 5, 24)


@pytest.mark.parametrize("name", [name for name, (backbone, _) in MODELS_OF.items() if backbone != "RevCol"])
def test_larger_images_are_fine_tuned_with_a_resized_table_of_positions(name, fixtures, tmp_path):
    source = torch.load(fixtures / f"{name}.pt", weights_only=True)
    size = source["config"]["img_size"]
    torch.save(source["state_dict"], tmp_path / "official.pth")
    small, large = build(source, name).eval(), build(source, name, img_size=2 * size).eval()
    assert load_pretrained(small, tmp_path / "official.pth").adapted == []
    report = load_pretrained(large, tmp_path / "official.pth")
    assert report.complete
    (note,) = report.adapted
    grids = [f"{side} x {side}" for side in (small.backbone.pos_grid[0], large.backbone.pos_grid[0])]
    assert f"pos_embed was resized from {grids[0]} to {grids[1]}" in note
    images = torch.nn.functional.interpolate(source["input"], scale_factor=2)
    with torch.no_grad():
        close(large(images), small(images), 1e-6)  # which resizes its table for these images


@pytest.mark.parametrize("name", ["revcol", "revcol_22k", "revcol_huge"])
@pytest.mark.parametrize("memory", [dict(), dict(reversible=True), dict(reversible=True, keep_every=2)])
def test_intermediate_supervision_is_the_official_one(name, memory, fixtures):
    source = torch.load(fixtures / f"{name}.pt", weights_only=True)
    model = build(source, name, **memory)
    model.load_state_dict(
        {model.published_name(key): value for key, value in source["state_dict"].items()}, strict=True
    )
    maps, _ = model.extract_feat(source["input"])
    for got, expected in zip(model.head.all_logits(maps), source["logits"], strict=True):
        close(got, expected)
    for got, expected in zip(model.head.reconstructions(maps), source["reconstructions"], strict=True):
        close(got, expected)

    given = source["compound_loss"]
    model.head.reconstruction_weight, model.head.label_weight = given["feature_coe"], given["label_coe"]
    model.head.mean.zero_()
    model.head.std.fill_(255)
    samples = [DataSample().set_gt_label(label) for label in given["target"]]
    losses = model.head.loss((maps, given["image"]), samples)
    losses = {key: loss.detach() for key, loss in losses.items()}
    assert float(sum(losses.values())) == pytest.approx(float(given["loss"].detach()), rel=1e-6)
    parts = [losses[f"loss_image_{j}"] + losses[f"loss_label_{j}"] for j in range(3)] + [losses["loss"]]
    assert [float(part) for part in parts] == pytest.approx([float(part.detach()) for part in given["parts"]], rel=1e-6)


def test_distilled_heads_are_the_official_ones(fixtures):
    source = torch.load(fixtures / "deit_distilled.pt", weights_only=True)
    model = build(source, "deit_distilled").eval()
    model.load_state_dict({model.published_name(key): value for key, value in source["state_dict"].items()})
    label, distilled = model.head.both_logits(model.extract_feat(source["input"]))
    close(label, source["logits_cls"])
    close(distilled, source["logits_dist"])


def test_decoders_rebuild_the_pixels_under_any_normalisation():
    init_default_scope("mmpretrain")
    arch = dict(channels=(8, 8, 8, 8), depths=(1, 1, 1, 1), num_columns=4)
    for pixels in (dict(mean=[127.5] * 3, std=[127.5] * 3), dict(mean=[103.5, 116.3, 123.7], std=[57.0, 58.0, 59.0])):
        model = DenseClassifier(
            dict(type="RevCol", arch=arch),
            dict(type="SupervisedRevColHead", num_classes=3),
            data_preprocessor=dict(type="ClsDataPreprocessor", **pixels),
        )
        image = torch.randint(3, 252, (3, 32, 32), dtype=torch.uint8)  # values that the loss does not clip
        inputs = model.data_preprocessor(dict(inputs=[image]))["inputs"]
        torch.testing.assert_close(model.head.pixels(inputs)[0] * 255, image.float(), rtol=0, atol=1e-3)


def test_class_attention_starts_with_the_layer_scale_of_the_backbone():
    init_default_scope("mmpretrain")
    arch = dict(embed_dims=24, depth=2, num_heads=2)
    for given, expected in ((None, 1e-5), (0.25, 0.25)):
        backbone = dict(type="CaiTTrunk", arch=arch, layer_scale_init_value=given)
        model = DenseClassifier(backbone, dict(type="CaiTHead", num_classes=3))
        scales = {key: p for key, p in model.named_parameters() if "gamma" in key}
        assert len(scales) == 8
        assert all((p == expected).all() for p in scales.values())


def test_soft_distillation_is_scaled_by_the_number_of_logits():
    student, teacher = torch.randn(2, 4, 7, dtype=torch.float64)
    p, q = (teacher / 3).softmax(1), (student / 3).softmax(1)
    assert float(soft_distillation(student, teacher, 3.0)) == pytest.approx(float((p * (p / q).log()).sum()) * 9 / 28)


@pytest.mark.parametrize("keep_every", [1, 2, 4])
def test_gradients_of_supervised_columns_are_those_of_ordinary_autograd(keep_every):
    """Losses on columns in the middle, too, whose maps the memory modes rebuild."""
    init_default_scope("mmpretrain")
    arch = dict(channels=(8, 12, 16, 20), depths=(1, 1, 1, 1), num_columns=4)
    samples = [DataSample().set_gt_label(label) for label in (0, 2)]
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    grads = []
    for memory in (dict(), dict(reversible=True, keep_every=keep_every)):
        torch.manual_seed(0)
        model = MODELS.build(
            dict(
                type="DenseClassifier",
                backbone=dict(type="RevCol", arch=arch, **memory),
                head=dict(type="SupervisedRevColHead", num_classes=3),
            )
        ).double()
        for parameter in model.parameters():
            torch.nn.init.uniform_(parameter, -0.5, 0.5)
        sum(model.train().loss(images, samples).values()).backward()
        grads.append({key: parameter.grad for key, parameter in model.named_parameters()})
    assert None not in grads[0].values()
    for key, expected in grads[0].items():
        torch.testing.assert_close(grads[1][key], expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("size", [(64, 64), (75, 101)])
def test_supervised_head_trains_on_any_image_size(size):
    init_default_scope("mmpretrain")
    arch = dict(channels=(8, 12, 16, 20), depths=(1, 1, 1, 1), num_columns=8)
    head = dict(type="SupervisedRevColHead", num_classes=3)
    model = MODELS.build(dict(type="DenseClassifier", backbone=dict(type="RevCol", arch=arch), head=head))
    losses = model.loss(torch.randn(2, 3, *size), [DataSample().set_gt_label(label) for label in (0, 2)])
    assert sorted(losses) == ["loss", *(f"loss_{kind}_{j}" for kind in ("image", "label") for j in range(3))]
    assert all(torch.isfinite(loss) for loss in losses.values())


@pytest.mark.parametrize(
    ("backbone", "head", "message"),
    [
        (dict(type="RevCol", arch=dict(channels=(8, 12, 16, 20), depths=(1, 1, 1, 1), num_columns=6)),
         dict(type="SupervisedRevColHead"), "has 6 columns; intermediate supervision takes a multiple of 4"),
        (dict(type="PlainViT", arch="tiny"), dict(type="ClassTokenHead"), "is a PlainViT; .*ViTTrunk instead of"),
        (dict(type="mmpretrain.ResNet", depth=18), dict(type="RevColHead"), "is a ResNet; DenseClassifier takes"),
        (dict(type="DeiTTrunk", arch="tiny"), dict(type="DistilledHead", kind="firm"), "kind is 'firm'"),
        (dict(type="CaiTTrunk", arch="xxs24"), dict(type="ClassTokenHead"),
         "ClassTokenHead reads a Trunk with cls_token, not a CaiTTrunk with no tokens"),
        (dict(type="ViTTrunk", arch="tiny", window_size=7), dict(type="ClassTokenHead"),
         "with cls_token, not a ViTTrunk with no tokens .windows"),
        (dict(type="ViTTrunk", arch="tiny"), dict(type="DistilledHead"),
         "DistilledHead reads a DeiTTrunk with cls_token, dist_token, not a ViTTrunk with cls_token"),
        (dict(type="ViTTrunk", arch="tiny"), dict(type="CeiTHead"), "CeiTHead reads a CeiTTrunk"),
        (dict(type="ViTTrunk", arch="tiny"), dict(type="CaiTHead"), "CaiTHead reads a CaiTTrunk, not a"),
        (dict(type="RevCol"), dict(type="MeanPoolHead"), "MeanPoolHead reads a Trunk, not a RevCol"),
        (dict(type="ViTTrunk", arch="tiny"), dict(type="RevColHead"), "RevColHead reads a ColumnNetwork"),
        (dict(type="RevCol", out_indices=(0, 1)), dict(type="RevColHead"), "RevCol is .0, 1., without the coarsest"),
    ],
)  # fmt: skip
def test_wrong_parts_are_named(backbone, head, message):
    init_default_scope("mmpretrain")
    with pytest.raises(ValueError, match=message):
        MODELS.build(dict(type="DenseClassifier", backbone=backbone, head=dict(num_classes=3, **head)))

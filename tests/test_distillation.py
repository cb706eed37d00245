"""Distillation: the teacher and its input, the losses, and refused teachers."""

import copy

import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from mmengine.registry import MODELS, init_default_scope

pytest.importorskip("mmpretrain")

import timm
from mmpretrain.structures import DataSample

import backbones.classification  # noqa: F401  (registers)
from backbones.errors import SetupError

CLASSES = 5
IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
TIMM = dict(type="TimmClassifier", model_name="resnet10t", num_classes=CLASSES)
SMOOTH = dict(type="LabelSmoothLoss", label_smooth_val=0.1, mode="original")


def mmpretrains(classes: int = CLASSES, **kwargs) -> dict:
    """The config of a convolutional teacher of mmpretrain's own."""
    return dict(
        type="ImageClassifier",
        backbone=dict(type="ResNet", depth=18),
        neck=dict(type="GlobalAveragePooling"),
        head=dict(type="LinearClsHead", num_classes=classes, in_channels=512),
        **kwargs,
    )


def make(teacher: dict = TIMM, pixels: dict = IMAGENET, augments: list | None = None, **head):
    init_default_scope("mmpretrain")
    return MODELS.build(
        dict(
            type="DistilledClassifier",
            backbone=dict(type="DeiTTrunk", arch=dict(embed_dims=24, depth=2, num_heads=2), img_size=64),
            head={**dict(type="DistilledHead", num_classes=CLASSES, loss=SMOOTH), **head},
            teacher=teacher,
            train_cfg=augments and dict(augments=augments),
            data_preprocessor=dict(num_classes=CLASSES, to_rgb=True, **pixels),
        )
    )


def batch(model) -> tuple[torch.Tensor, list[DataSample]]:
    """Four images as a training step gives them to ``loss``."""
    images = list(torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8))
    samples = [DataSample().set_gt_label(label) for label in (0, 1, 4, 2)]
    data = model.data_preprocessor(dict(inputs=images, data_samples=samples), training=True)
    return data["inputs"], data["data_samples"]


@pytest.fixture(params=[TIMM, mmpretrains()], ids=["timm", "mmpretrain"])
def model(request):
    return make(request.param).train()


# ---------------------------------------------------------------------------------------------------------- the teacher
def test_teacher_sees_exactly_the_students_images(model):
    mixed = make(augments=[dict(type="Mixup", alpha=0.8)])
    for net in (model, mixed):
        seen = {}
        net.teacher.register_forward_pre_hook(lambda _, args, seen=seen: seen.update(teacher=args[0]))
        net.backbone.patch_embed.register_forward_pre_hook(lambda _, args, seen=seen: seen.update(student=args[0]))
        images, samples = batch(net)
        net.loss(images, samples)
        assert torch.equal(seen["teacher"], images)
        assert torch.equal(seen["student"], images)
    scores = torch.stack([sample.gt_score for sample in samples])
    assert ((scores > 0) & (scores < 1)).any()  # they were mixed


def test_teacher_stays_in_eval_mode_and_learns_nothing(model):
    before = copy.deepcopy(model.teacher.state_dict())
    for _ in range(2):
        model.train()
        sum(model.loss(*batch(model)).values()).backward()
        assert model.training
        assert not any(module.training for module in model.teacher.modules())
    assert not any(p.requires_grad or p.grad is not None for p in model.teacher.parameters())
    for name, value in model.teacher.state_dict().items():  # running statistics among them
        assert torch.equal(value, before[name]), name


def test_teacher_is_no_part_of_the_model(model):
    own = {*map(id, model.parameters()), *map(id, model.buffers()), *map(id, model.modules())}
    teacher = model.teacher
    assert not own & {*map(id, teacher.parameters()), *map(id, teacher.buffers()), *map(id, teacher.modules())}
    assert {name.split(".")[0] for name in model.state_dict()} == {"backbone", "head"}


def test_teacher_moves_with_the_student(model):
    images, samples = batch(model)
    assert next(model.teacher.parameters()).dtype == torch.float32
    model.to(torch.float64)
    floating = [t for t in model.teacher.state_dict().values() if t.is_floating_point()]
    assert {t.dtype for t in floating} == {torch.float64}
    losses = model.loss(images.double(), samples)
    assert {name: loss.dtype for name, loss in losses.items()} == dict.fromkeys(losses, torch.float64)


def test_teacher_is_built_where_the_student_is():
    model = make().to(torch.float64)
    assert next(model.teacher.parameters()).dtype == torch.float64


def test_prediction_needs_no_teacher():
    model = make({**TIMM, "checkpoint_path": "nowhere.pth"}).eval()
    assert len(model.predict(*batch(model))) == 4
    with pytest.raises(FileNotFoundError):
        model.init_weights()


def test_moving_average_shares_the_teacher(model):
    average = ExponentialMovingAverage(model, momentum=1e-4)
    assert average.module.teacher is model.teacher
    assert average.module.head.head.weight is not model.head.head.weight


@pytest.mark.parametrize(
    "settings", [dict(model_name="resnet10t"), dict(model_name="vit_tiny_patch16_224", img_size=64)], ids=str
)
def test_weights_that_timm_reads_are_kept(settings, tmp_path):
    source = timm.create_model(**settings, num_classes=CLASSES)
    torch.save(source.state_dict(), tmp_path / "teacher.pth")
    pixels = {key: [255 * x for x in source.default_cfg[key]] for key in ("mean", "std")}
    model = make({**TIMM, **settings, "checkpoint_path": str(tmp_path / "teacher.pth")}, pixels)
    model.init_weights()  # as the runner does
    for key, value in source.state_dict().items():
        assert torch.equal(model.teacher.model.state_dict()[key], value), key


def test_teacher_without_weights_is_reported(tmp_path, said):
    make().init_weights()
    assert any("the teacher's config names no weights" in text for text in said)
    said.clear()
    torch.save(timm.create_model("resnet10t", num_classes=CLASSES).state_dict(), tmp_path / "teacher.pth")
    make({**TIMM, "checkpoint_path": str(tmp_path / "teacher.pth")}).init_weights()
    assert not any("names no weights" in text for text in said)


def test_weights_of_a_checkpoint_are_read(tmp_path):
    init_default_scope("mmpretrain")
    source = MODELS.build(mmpretrains())
    torch.save(dict(state_dict=source.state_dict()), tmp_path / "teacher.pth")
    pretrained = dict(type="Pretrained", checkpoint=str(tmp_path / "teacher.pth"))
    teacher = make(mmpretrains(init_cfg=pretrained)).teacher
    for name, value in source.state_dict().items():
        assert torch.equal(teacher.state_dict()[name], value), name


# ----------------------------------------------------------------------------------------------------------- the losses
@pytest.mark.parametrize("weight", [0.5, 0.1])
def test_hard_loss_is_the_published_one(weight):
    model = make(kind="hard", weight=weight).double().eval()
    images, samples = batch(model)
    losses = model.loss(images.double(), samples)
    with torch.no_grad():
        label, distilled = model.head.both_logits(model.extract_feat(images.double()))
        decisions = model.teacher(images.double()).argmax(1)
    truth = torch.tensor([0, 1, 4, 2])
    smooth = torch.full((4, CLASSES), 0.1 / CLASSES, dtype=torch.float64)
    smooth[range(4), truth] += 0.9
    base = -(smooth * label.log_softmax(1)).sum(1).mean()
    taught = -distilled.log_softmax(1)[range(4), decisions].mean()
    assert losses.keys() == {"loss", "loss_distillation"}
    assert float(losses["loss"].detach()) == pytest.approx(float(base) * (1 - weight), rel=1e-6)
    assert float(losses["loss_distillation"].detach()) == pytest.approx(float(taught) * weight, rel=1e-12)


def test_soft_loss_is_the_published_one():
    model = make(kind="soft", weight=0.1, temperature=3.0).double().eval()
    images, samples = batch(model)
    taught = model.loss(images.double(), samples)["loss_distillation"].detach()
    with torch.no_grad():
        _, distilled = model.head.both_logits(model.extract_feat(images.double()))
        p, q = (model.teacher(images.double()) / 3).softmax(1), (distilled / 3).softmax(1)
    expected = float((p * (p / q).log()).sum()) * 9 / (4 * CLASSES)
    assert float(taught) == pytest.approx(0.1 * expected, rel=1e-9)


def test_predictions_are_those_of_the_mean_without_a_teacher(model):
    model.eval()
    model.teacher.register_forward_pre_hook(lambda *_: pytest.fail("the teacher was asked for a prediction"))
    images, samples = batch(model)
    predicted = model.predict(images, samples)
    label, distilled = model.head.both_logits(model.extract_feat(images))
    scores = torch.stack([sample.pred_score for sample in predicted])
    torch.testing.assert_close(scores, ((label + distilled) / 2).softmax(1))


# ------------------------------------------------------------------------------------------------------------- refusals
def test_other_normalisation_is_refused():
    half = dict(mean=[127.5] * 3, std=[127.5] * 3)
    with pytest.raises(SetupError, match=r"teacher's images have mean \[123.7, 116.3, 103.5\], the student's \[127.5"):
        make(pixels=half).init_weights()
    with pytest.raises(SetupError, match=r"teacher's images have mean \[127.5, .*, the student's \[123.7"):
        make(mmpretrains(data_preprocessor=half)).init_weights()
    with pytest.raises(SetupError, match=r"teacher's images have std \[58.4, .*, the student's \[1.0, 1.0, 1.0\]"):
        make(pixels=dict(mean=IMAGENET["mean"], std=[1.0] * 3)).init_weights()
    make(mmpretrains(data_preprocessor=half), pixels=half).init_weights()


@pytest.mark.parametrize("teacher", [{**TIMM, "num_classes": 7}, mmpretrains(classes=7)], ids=["timm", "mmpretrain"])
def test_other_classes_are_refused(teacher):
    with pytest.raises(SetupError, match=r"teacher gives logits \(1, 7\) for an image, the student has 5 classes"):
        make(teacher).init_weights()


def test_other_image_size_is_refused():
    fixed = dict(type="TimmClassifier", model_name="vit_tiny_patch16_224", num_classes=CLASSES)
    with pytest.raises(SetupError, match=r"cannot take the student's images of 64 x 64 pixels \(Input height \(64\)"):
        make(fixed, pixels=dict(mean=[127.5] * 3, std=[127.5] * 3)).init_weights()


def test_head_without_teacher_is_refused():
    with pytest.raises(ValueError, match="the head is a ClassTokenHead; a DistilledClassifier has a DistilledHead"):
        make(type="ClassTokenHead", loss=SMOOTH)


@pytest.mark.parametrize(
    "wrong", [dict(kind="firm"), dict(weight=1.5), dict(weight=-0.1), dict(kind="soft", temperature=0)]
)
def test_other_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=r"distillation is 'hard' or 'soft', with a weight in \[0, 1\]"):
        make(**wrong)

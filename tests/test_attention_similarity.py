"""Similarity of attention maps: of the official maps, by hand, and as a loss."""

import gc
import itertools

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from official import assert_equal, load_deepvit

pytest.importorskip("mmpretrain")

from mmpretrain.structures import DataSample

from backbones import CaiT, CeiT, DeepViT, PlainViT
from backbones import attention_maps as module
from backbones.attention_maps import (
    AttentionInput,
    attention_similarity,
    block_similarities,
    compare_maps,
    count_similar_blocks,
    global_blocks,
    head_similarity,
    recorded_blocks,
    similar_blocks,
    similarity_ratios,
)
from backbones.classification.attention_similarity import similarity_loss

ARCH = dict(embed_dims=24, depth=3, num_heads=2)


@pytest.fixture(params=["deepvit", "deepvit_plain"])
def official(request, fixtures):
    return load_deepvit(fixtures, request.param)


def deepvit(**kwargs) -> DeepViT:
    net = DeepViT(ARCH, img_size=64, pyramid=None, **kwargs)
    for p in net.parameters():  # wide enough for maps that are not nearly constant
        torch.nn.init.normal_(p, std=0.3)
    return net


def record(net, images) -> list:
    with recorded_blocks(net.blocks) as inputs:
        net.forward_tokens(images)
    return inputs


# --------------------------------------------------------------------------------------------------------------- maps
def test_maps_and_their_similarities_are_those_of_the_official_code(official):
    file, net = official
    with torch.no_grad():
        for given, expected in zip(record(net, file["input"]), file["attention_maps"], strict=True):
            assert_equal(given.maps(), expected)
    got = block_similarities(net, file["input"])
    assert got.shape == (net.depth - 1, 2, 4, 17)
    for similarity, (a, b) in zip(got, itertools.pairwise(file["attention_maps"]), strict=True):
        products = torch.einsum("bhqt,bhqt->bht", a, b)
        lengths = a.square().sum(2).sqrt() * b.square().sum(2).sqrt()
        assert_equal(similarity, products / lengths)


@pytest.mark.parametrize("family", [PlainViT, DeepViT, CaiT, CeiT])
@pytest.mark.parametrize("rel_pos", [False, 64])
def test_maps_are_the_weights_of_the_values(family, rel_pos):
    net = family(ARCH, img_size=64, pyramid=None, rel_pos=rel_pos).double().eval()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3)
    attention, n = net.blocks[1].attn, net.num_prefix + 16
    x = torch.randn(2, n, 24, dtype=torch.float64)
    given = AttentionInput(attention, x, (4, 4))
    maps = given.maps()
    assert maps.shape == (2, 2, n, n)
    some = torch.tensor([3, 0, 7])
    torch.testing.assert_close(given.maps(some), maps[..., some])
    values = attention.qkv(x)[..., 48:].unflatten(2, (2, 12)).transpose(1, 2)
    torch.testing.assert_close(attention.proj((maps @ values).transpose(1, 2).flatten(2)), attention(x, (4, 4)))


# ------------------------------------------------------------------------------------------------------------ measure
def test_similarity_compares_the_rows_of_a_token():
    eye = torch.eye(3).expand(1, 1, 3, 3)
    assert attention_similarity(eye, 5 * eye).tolist() == [[[1, 1, 1]]]
    assert attention_similarity(eye, eye.roll(1, dims=3)).tolist() == [[[0, 0, 0]]]
    # the second token gives to all: its column, not its row, is another one
    spread = eye.clone()
    spread[..., :, 1] = 1
    expected = torch.tensor([[[1, 3**-0.5, 1]]])
    torch.testing.assert_close(attention_similarity(eye, spread), expected)


def test_maps_of_many_tokens_with_relative_positions_are_whole():
    net = PlainViT(ARCH, img_size=64, pyramid=None, rel_pos=True).eval()
    attention, x = net.blocks[0].attn, torch.randn(1, 64, 24)  # 64 values a token, wider than the 28 of the queries
    torch.testing.assert_close(AttentionInput(attention, x, (8, 8)).maps().sum(-1), torch.ones(1, 2, 64))


@pytest.mark.parametrize("family", [DeepViT, CaiT])
def test_maps_that_are_not_mixed_are_the_plain_softmax(family):
    net = family(ARCH, img_size=64, pyramid=None).double().eval()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3)
    attention, x = net.blocks[1].attn, torch.randn(2, 16, 24, dtype=torch.float64)
    q, k, v = attention.qkv(x).unflatten(2, (3, 2, 12)).permute(2, 0, 3, 1, 4).unbind()
    plain = (q @ k.mT * 12**-0.5).softmax(-1)
    given = AttentionInput(attention, x, (4, 4))
    torch.testing.assert_close(given.maps(mixed=False), plain)
    torch.testing.assert_close(given.read(mixed=False), plain @ v)
    assert not torch.allclose(given.maps(), plain)


def test_heads_are_compared_in_pairs():
    maps = torch.stack([torch.eye(3), 5 * torch.eye(3), torch.eye(3).roll(1, dims=1)])[None]  # three heads
    maps[0, 2, :, 0] = 1
    expected = torch.tensor([[[1, 1, 1], [3**-0.5, 0, 0], [3**-0.5, 0, 0]]])
    torch.testing.assert_close(head_similarity(maps), expected)


def test_blocks_are_compared_at_every_distance_in_one_pass():
    net, images = deepvit().eval(), torch.randn(2, 3, 64, 64)
    some = torch.tensor([0, 5, 16])
    with torch.no_grad():
        inputs = record(net, images)
        maps = [given.maps(some) for given in inputs]
        got = compare_maps(inputs, columns=some)
    assert got.neighbours.keys() == {1, 2}  # three blocks have no neighbours at distance 3
    for distance, similarities in got.neighbours.items():
        expected = [attention_similarity(a, b) for a, b in zip(maps, maps[distance:], strict=False)]
        torch.testing.assert_close(similarities, torch.stack(expected))
    torch.testing.assert_close(got.heads, torch.stack([head_similarity(m) for m in maps]))
    torch.testing.assert_close(block_similarities(net, images, 2)[..., some], got.neighbours[2])


def test_blocks_without_windows_are_found_by_name():
    net = PlainViT(ARCH, window_size=2, global_blocks=(1,), pyramid=None)
    assert global_blocks(net) == {"blocks.1": net.blocks[1]}


def test_similar_blocks_are_those_with_more_than_nine_tenths_of_their_vectors_alike():
    similarities = torch.zeros(3, 2, 2, 5)
    similarities[0] = 0.85
    similarities[0, 0, 0, 0] = 0.1  # 19 of 20
    similarities[1, 0] = 0.85  # half
    similarities[2] = 0.75
    assert similarity_ratios(similarities).tolist() == [0.95, 0.5, 0.0]
    assert similarity_ratios(similarities, threshold=0.7).tolist() == [0.95, 0.5, 1.0]
    assert similar_blocks(similarities).tolist() == [True, False, False]
    assert count_similar_blocks(similarities) == 1
    assert count_similar_blocks(similarities, threshold=0.7) == 2


def test_blocks_with_the_same_attention_are_counted_and_others_not():
    net = PlainViT(dict(ARCH, depth=5), img_size=64, pyramid=None).eval()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.5)  # sharp maps; nearly constant ones are all alike
    images = torch.randn(2, 3, 64, 64)
    assert count_similar_blocks(block_similarities(net, images)) == 0
    for block in net.blocks[2:]:  # the last three attend alike: they change nothing, and have equal weights
        block.attn.load_state_dict(net.blocks[2].attn.state_dict())
        block.norm1.load_state_dict(net.blocks[2].norm1.state_dict())
        torch.nn.init.zeros_(block.attn.proj.weight)
        torch.nn.init.zeros_(block.attn.proj.bias)
        torch.nn.init.zeros_(block.mlp.fc2.weight)
        torch.nn.init.zeros_(block.mlp.fc2.bias)
    similarities = block_similarities(net, images)
    assert count_similar_blocks(similarities) == 2
    torch.testing.assert_close(similarities[2:], torch.ones_like(similarities[2:]))


def test_two_maps_exist_at_a_time(monkeypatch):
    alive = []

    def count(maps, others):
        tensors = [x for x in gc.get_objects() if type(x) is torch.Tensor]
        alive.append(sum(x.shape == maps.shape for x in tensors))
        return attention_similarity(maps, others)

    monkeypatch.setattr(module, "attention_similarity", count)
    block_similarities(DeepViT(dict(ARCH, depth=5), img_size=64, pyramid=None).eval(), torch.randn(2, 3, 64, 64))
    assert alive == [2, 2, 2, 2]


def test_windows_are_refused():
    net = PlainViT(ARCH, window_size=2, global_blocks=(1,), pyramid=None)
    with pytest.raises(ValueError, match=r"blocks \[0, 2\] attend in windows"):
        block_similarities(net, torch.zeros(1, 3, 64, 64))


def test_blocks_are_recorded_inside_the_context_only():
    net, images = deepvit().eval(), torch.randn(1, 3, 64, 64)
    inputs = record(net, images)
    net.forward_tokens(images)
    assert [given.attention for given in inputs] == [block.attn for block in net.blocks]


# --------------------------------------------------------------------------------------------------------------- loss
def test_loss_is_the_mean_similarity_of_neighbours():
    net, images = deepvit().eval(), torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(similarity_loss(record(net, images)), block_similarities(net, images).mean())


@pytest.mark.parametrize("training", [False, True])
def test_gradients_are_those_of_finite_differences(training):
    net = deepvit().double().train(training)
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: similarity_loss(record(net, x)), images, fast_mode=True)


def test_gradients_of_parameters_are_those_of_maps_that_are_kept():
    net, images = deepvit().double().train(), torch.randn(2, 3, 64, 64, dtype=torch.float64)
    names, parameters = zip(*[(n, p) for n, p in net.named_parameters() if "blocks.2.mlp" not in n], strict=True)
    similarity_loss(record(net, images)).backward()

    maps = []
    for attention, tokens, *_ in record(net, images):  # the textbook's
        q, k, _ = attention.qkv(tokens).unflatten(2, (3, 2, 12)).permute(2, 0, 3, 1, 4).unbind()
        maps.append(attention.var_norm(attention.reatten_matrix((q @ k.mT * 12**-0.5).softmax(-1))))
    similarities = [torch.cosine_similarity(a, b, dim=2).mean() for a, b in itertools.pairwise(maps)]
    expected = torch.autograd.grad(torch.stack(similarities).mean(), parameters, allow_unused=True)
    for name, p, grad in zip(names, parameters, expected, strict=True):
        if grad is None:  # layers behind the last maps
            assert name.startswith(("blocks.2.attn.proj", "blocks.2.norm2")), name
            assert p.grad is None
        else:
            torch.testing.assert_close(p.grad, grad, msg=name)


def test_no_maps_are_kept_for_backward():
    net, kept = deepvit().train(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(tuple(x.shape)) or x, lambda x: x):
        similarity_loss(record(net, torch.randn(2, 3, 64, 64)))
    assert (2, 17, 24) in kept  # tokens
    assert not [shape for shape in kept if shape[-2:] == (17, 17)]


def test_batch_norms_count_a_batch_once():
    net = deepvit().train()
    similarity_loss(record(net, torch.randn(2, 3, 64, 64))).backward()
    assert [int(block.attn.var_norm.num_batches_tracked) for block in net.blocks] == [1, 1, 1]


def test_recomputed_blocks_give_the_same_gradients():
    images, gradients = torch.randn(2, 3, 64, 64), []
    weights = deepvit().state_dict()
    for with_cp in (False, True):
        net = deepvit(with_cp=with_cp).train()
        net.load_state_dict(weights)
        similarity_loss(record(net, images)).backward()
        gradients.append(net.blocks[0].attn.qkv.weight.grad)
    torch.testing.assert_close(*gradients)


def test_classifier_adds_the_loss_and_training_lowers_it():
    init_default_scope("mmpretrain")
    model = MODELS.build(
        dict(
            type="DiverseClassifier",
            similarity_weight=0.5,
            backbone=dict(type="DeepViTTrunk", arch=ARCH, img_size=64),
            head=dict(type="ClassTokenHead", num_classes=3),
        )
    )
    model.backbone.load_state_dict(deepvit().state_dict())
    images, samples = torch.randn(2, 3, 64, 64), [DataSample().set_gt_label(i) for i in (0, 2)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    curve = []
    for _ in range(10):
        before = similarity_loss(record(model.backbone, images))
        losses = model.loss(images, samples)
        assert set(losses) == {"loss", "loss_similarity"}
        torch.testing.assert_close(losses["loss_similarity"], 0.5 * before)
        curve.append(losses["loss_similarity"].item())
        optimizer.zero_grad()
        losses["loss_similarity"].backward()
        optimizer.step()
    assert curve[-1] < curve[0] - 0.1, curve

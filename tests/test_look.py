"""look: exact measures and pictures of maps, and pages of every family that open without a network."""

import itertools
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from archs import VIT, small_arch
from PIL import Image
from tool_runs import ROOT, verb
from torch import nn

import backbones
from backbones import CaiT, CeiT, PlainViT, RevCol, cli
from backbones.attention_maps import AttentionInput
from backbones.cait import ClassAttention
from backbones.cli.look import WEIGHTS, is_checkpoint
from backbones.look import columns
from backbones.look.attention import covered, make_cells, make_sprite, point_maps
from backbones.look.blocks import layer_scales, patches
from backbones.look.cka import gram, hsic, linear_cka
from backbones.look.colors import PALETTE, energy_colors, pca_colors
from backbones.look.columns import added_share, column_similarities, memory_over_columns
from backbones.look.record import Look, record
from backbones.look.similarity import shares
from backbones.look.subject import Photo, Subject, fit, labels, read_pixels, spread, squash
from backbones.vit import ViTTrunk

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")


def subject(net, order: str = "RGB") -> Subject:
    """A backbone of small_arch as the verb builds it."""
    name = type(net).__name__
    settings = dict(type=name, arch=small_arch(name))
    net.eval().requires_grad_(False)
    return Subject(name, net, net, settings, order, net.pixel_mean, net.pixel_std)


def photo(height: int = 64, width: int = 96, path: str = "a/photo.jpg") -> Photo:
    return Photo(Path(path), np.random.default_rng(len(path)).integers(0, 255, (height, width, 3), np.uint8))


def look_at(net, *photos: Photo) -> Look:
    one = subject(net)
    return Look(one, list(photos), [record(one, each) for each in photos], None, 0.8, 0.5)


def draw(net: nn.Module, std: float = 0.3) -> nn.Module:
    """Weights wide enough for attention maps that differ."""
    for p in net.parameters():
        nn.init.normal_(p, std=std)
    return net


@pytest.fixture(scope="module")
def folders(data, tmp_path_factory) -> Path:
    """Eight photographs in two folders of classes."""
    folder = tmp_path_factory.mktemp("photographs")
    for i, file in enumerate(sorted((data / "train2017").iterdir())[:8]):
        (folder / "ab"[i % 2]).mkdir(exist_ok=True)
        shutil.copy(file, folder / "ab"[i % 2])
    return folder


# ----------------------------------------------------------------------------------------------------------------- cka
def test_cka_is_one_for_the_same_up_to_rotation_shift_and_scale():
    x = torch.randn(20, 5, 3)
    rotation = torch.linalg.qr(torch.randn(15, 15)).Q
    turned = 3 * (x.flatten(1) @ rotation) + torch.randn(15)
    assert linear_cka([gram(x)], [gram(x)]) == pytest.approx(1, abs=1e-12)
    assert linear_cka([gram(x)], [gram(turned)]) == pytest.approx(1, abs=1e-5)


def test_cka_of_unrelated_representations_is_about_zero_at_any_width():
    values = [linear_cka([gram(torch.randn(32, 4))], [gram(torch.randn(32, 5000))]) for _ in range(20)]
    assert abs(np.mean(values)) < 0.03
    assert np.isnan(linear_cka([gram(torch.ones(8, 3))], [gram(torch.randn(8, 3))]))


def test_hsic_is_the_mean_over_all_groups_of_four_images():
    x, y = torch.randn(6, 3), torch.randn(6, 2)
    k, l = (z - z.mean(0) for z in (x.double(), y.double()))
    k, l = k @ k.T, l @ l.T
    terms = [k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q]) for i, j, q, r in itertools.permutations(range(6), 4)]
    torch.testing.assert_close(hsic(gram(x), gram(y)), torch.stack(terms).mean())


def test_estimates_of_batches_are_averaged():
    x, y = torch.randn(2, 8, 3), torch.randn(2, 8, 4)
    k, l = [gram(z) for z in x], [gram(z) for z in y]
    across, first, second = (
        sum(hsic(a, b) for a, b in zip(one, other, strict=True)) for one, other in ((k, l), (k, k), (l, l))
    )
    assert linear_cka(k, l) == pytest.approx(float(across / (first * second).sqrt()))
    assert linear_cka([k[0], k[0]], [l[0], l[0]]) == pytest.approx(linear_cka(k[:1], l[:1]))


# ------------------------------------------------------------------------------------------------------------ pictures
def test_principal_components_are_the_colours():
    ramp = torch.arange(100.0).view(1, 10, 10)
    direction = torch.randn(8, 1, 1)
    (colors,) = pca_colors([direction * ramp])
    low, high = np.quantile(np.arange(100), [0.01, 0.99])
    expected = ((np.arange(100) - low) / (high - low)).clip(0, 1).reshape(10, 10) * 255
    if direction[direction.abs().argmax()] < 0:
        expected = 255 - expected
    np.testing.assert_allclose(colors[..., 0], expected, atol=1)


def test_equal_features_have_equal_colours_in_all_maps():
    features = torch.randn(5, 6, 7)
    one, other = pca_colors([features, features.flip(2)])
    assert (one == other[:, ::-1]).all()
    assert len(np.unique(one.reshape(-1, 3), axis=0)) > 30
    assert pca_colors([torch.randn(1, 2, 3)])[0].shape == (2, 3, 3)  # fewer channels than colours


def test_energy_is_the_root_mean_square_on_one_scale():
    quiet, loud = torch.full((4, 3, 3), 2.0), torch.full((4, 3, 3), -6.0)
    quiet[0] = -2
    dark, bright = energy_colors([quiet, loud])
    assert (dark == PALETTE[0]).all()
    assert (bright == PALETTE[255]).all()
    assert energy_colors([torch.ones(2, 4, 4)])[0].shape == (4, 4, 3)


# -------------------------------------------------------------------------------------------------------------- photos
def test_photographs_keep_their_shape_and_are_never_enlarged(tmp_path):
    pixels = photo(40, 80).pixels
    assert fit(pixels, 60).shape == (30, 60, 3)
    assert (fit(pixels, 640) == pixels).all()
    assert squash(pixels, 32).shape == (32, 32, 3)
    (exif := Image.Exif())[0x0112] = 6  # to be turned by a quarter
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    assert (read_pixels(tmp_path / "turned.png") == np.rot90(pixels, -1)).all()


def test_pixels_are_normalised_in_the_order_of_the_model():
    net = RevCol(small_arch("RevCol"))
    pixels = photo().pixels[None]
    rgb = subject(net).images(pixels)
    expected = (pixels[0, 3, 5] - np.array(net.pixel_mean)) / np.array(net.pixel_std)
    np.testing.assert_allclose(rgb[0, :, 3, 5], expected, rtol=1e-5)
    bgr = subject(net, "BGR").images(pixels)
    np.testing.assert_allclose(
        bgr[0, :, 3, 5], (pixels[0, 3, 5, ::-1] - np.array(net.pixel_mean)) / np.array(net.pixel_std), rtol=1e-5
    )


def test_folders_of_classes_are_the_labels():
    assert labels([photo(path=f"/d/{name}") for name in ("a/1", "b/2", "a/3", "b/c/4")]) == ["a", "b", "a", "b/c"]
    assert labels([photo(path=f"/d/a/{name}") for name in "123"]) is None
    assert labels([photo(path=f"/d/{name}/1") for name in "123"]) is None
    assert spread(10, 4) == [0, 3, 6, 9]
    assert spread(3, 9) == [0, 1, 2]


# ------------------------------------------------------------------------------------------------------------- columns
def test_a_column_is_what_it_keeps_and_what_it_adds():
    net = draw(RevCol(small_arch("RevCol")))
    view = record(subject(net), photo())
    first, second = view.columns
    for l in range(4):
        assert not first.kept(l).any()
        torch.testing.assert_close(second.kept(l), first.maps[l] * net.columns[1].shortcuts()[l])
        torch.testing.assert_close(second.kept(l) + second.added(l), second.maps[l])
        torch.testing.assert_close(second.maps[l][0].permute(2, 0, 1), view.levels[l])
    assert added_share(torch.full((4,), 3.0), torch.full((4,), -1.0)) == 0.75


def test_similarities_of_the_columns_are_those_of_their_maps():
    net = draw(RevCol(small_arch("RevCol")))
    photos = [photo(path=f"/d/{'ab'[i % 2]}/{'x' * (i + 1)}") for i in range(6)]
    got = column_similarities(subject(net), photos, labels(photos))
    images = subject(net).images(np.stack([squash(each.pixels, 224) for each in photos]))
    with torch.no_grad():
        coarsest = net.coarsest_maps(images, [0, 1])
    one_hot = torch.eye(2)[[i % 2 for i in range(6)]]
    for name, target in (("image", images), ("labels", one_hot)):
        assert got[name].shape == (4, 2)
        expected = [linear_cka([gram(maps)], [gram(target)]) for maps in coarsest]
        np.testing.assert_allclose(got[name][3], expected, rtol=1e-4)
    assert column_similarities(subject(net), photos, None).keys() == {"image"}


def test_memory_is_measured_up_to_the_number_of_columns():
    net = RevCol(dict(small_arch("RevCol"), num_columns=3), frozen_stages=3)
    one = subject(net)
    one.settings.update(arch=dict(small_arch("RevCol"), num_columns=3), frozen_stages=3)
    found = memory_over_columns(one)
    assert {mode: list(points) for mode, points in found.items()} == {
        mode: [1, 2, 3] for mode in ("plain", "reversible", "keep_every=4")
    } | {"keep_every=3": [3]}
    plain, reversible = found["plain"], found["reversible"]
    assert plain[3] - plain[2] > 2 * (reversible[3] - reversible[2])


# ----------------------------------------------------------------------------------------------------------- attention
def test_points_take_the_mean_weight_of_each_cell():
    net = draw(PlainViT(VIT, img_size=64, pyramid=None)).eval()
    given = AttentionInput(net.blocks[0].attn, torch.randn(1, 1 + 40 * 20, 48), (40, 20))
    cells = make_cells(given)
    maps = given.maps()[0, :, :, 1:].unflatten(2, (40, 20))  # (h, N, 40, 20)
    expected = F.avg_pool2d(maps, 2)  # 20 x 10 cells
    got = point_maps(given, cells)
    assert cells.shape == (20, 10)
    assert got.shape == (2, 1 + 200, 20, 10)
    torch.testing.assert_close(got[:, 0], expected[:, 0])  # the class token's
    middle = 1 + (2 * 7 + 1) * 20 + 2 * 3 + 1  # token in the middle of row 7, column 3
    torch.testing.assert_close(got[:, 1 + 7 * 10 + 3], expected[:, middle])
    assert make_cells(given._replace(x=given.x[:, :13], grid=(4, 3))).points.tolist() == list(range(13))


def test_sprite_has_a_tile_for_each_head_and_point():
    net = draw(PlainViT(VIT, img_size=64, pyramid=None)).eval()
    given = AttentionInput(net.blocks[0].attn, torch.randn(1, 13, 48), (4, 3))
    cells = make_cells(given)
    sprite = make_sprite(given, cells)
    assert sprite.size == (13 * 3, 2 * 4)
    tiles = np.asarray(sprite).reshape(2, 4, 13, 3).transpose(0, 2, 1, 3)
    maps = point_maps(given, cells)
    brightest = maps.flatten(2).argmax(-1, keepdim=True).numpy()
    assert (np.take_along_axis(tiles.reshape(2, 13, -1), brightest, -1) == 255).all()
    assert (tiles.min((2, 3)) == 0).all()
    assert (np.asarray(sprite.convert("RGB"))[np.asarray(sprite) == 255] == PALETTE[255]).all()


def test_padding_of_the_photograph_is_outside_the_click():
    net = PlainViT(VIT, img_size=64, pyramid=None)
    view = record(subject(net), photo(40, 96))
    np.testing.assert_allclose(covered(net, view), [40 / 48, 1])


def test_blocks_that_attend_alike_are_similar_at_every_distance():
    net = PlainViT(VIT, img_size=64, pyramid=None)
    for block in net.blocks:
        nn.init.zeros_(block.attn.qkv.weight)  # all attention is uniform
    neighbours, heads = shares(look_at(net, photo()), mixed=True)
    assert {d: ratios.tolist() for d, ratios in neighbours.items()} == {1: [1] * 3, 2: [1] * 2, 3: [1]}
    assert heads.tolist() == [1] * 4


def test_products_are_the_maps_times_the_values():
    for family in ("PlainViT", "DeepViT", "CaiT"):
        net = draw(getattr(backbones, family)(VIT, img_size=64, pyramid=None))
        view = record(subject(net), photo())
        for given, product in zip(view.attention, view.products, strict=True):
            with torch.no_grad():
                torch.testing.assert_close(given.read().transpose(1, 2).flatten(2), product)
        assert patches(view.products[0], view.attention[0]).shape == (48, 4, 6)
        assert view.blocks == [f"blocks.{i}" for i in range(4)]


def test_trunks_show_their_last_block_and_windows_are_left_out():
    net = ViTTrunk(VIT, img_size=64)
    assert [tuple(level.shape) for level in record(subject(net), photo()).levels] == [(48, 4, 6)]
    windows = PlainViT(VIT, img_size=64, window_size=2, global_blocks=(1, 3))
    assert record(subject(windows), photo()).blocks == ["blocks.1", "blocks.3"]


def test_layer_scale_is_read_from_every_block():
    net = CaiT(dict(VIT, layer_scale_init_value=1e-5), img_size=64)
    net.blocks[2].gamma_2.data.fill_(-3)
    scales = layer_scales(net)
    assert [float(gamma.mean()) for _, gamma in scales] == pytest.approx([1e-5, 1e-5, -3, 1e-5])
    assert layer_scales(CeiT(VIT, img_size=64)) == []


def test_class_attention_has_the_weights_of_its_values():
    layer = draw(ClassAttention(24, 2)).double()
    x = torch.randn(2, 7, 24, dtype=torch.float64)
    values = layer.v(x).unflatten(2, (2, 12)).transpose(1, 2)
    read = torch.einsum("bhn,bhnd->bhd", layer.maps(x), values).flatten(1)
    torch.testing.assert_close(layer.proj(read)[:, None], layer(x))


# ---------------------------------------------------------------------------------------------------------------- page
def config(folder: Path, base: str, **model) -> Path:
    file = folder / f"small_{base}"
    file.write_text(f"_base_ = {str(ROOT / 'configs' / base)!r}\nmodel = {model!r}\n")
    return file


def classifier(folder: Path, family: str) -> Path:
    trunk = dict(_delete_=True, type=f"{family}Trunk", arch=VIT, img_size=64)
    return config(folder, f"{family.lower()}_flowers.py", backbone=trunk, head=dict(num_classes=3))


LEVELS, COLUMNS, ATTENTION = "Levels", "Columns", ["Attention", "Similarity of the maps", "Feature maps of the blocks"]
PAGES = {  # headings
    "RevCol": [LEVELS, COLUMNS],
    "DeiT": [LEVELS, *ATTENTION],
    "DeepViT": [LEVELS, *ATTENTION],
    "HybridViT": [LEVELS, *ATTENTION],
    "CaiT": [LEVELS, *ATTENTION, "LayerScale", "Class attention"],
    "CeiT": [LEVELS, *ATTENTION, "Class tokens of all layers"],
}


@pytest.fixture(autouse=True)
def _small_presets(monkeypatch):
    for name in ("RevCol", "PlainViT", "DeiT", "DeepViT", "HybridViT"):
        cls = getattr(backbones, name)
        monkeypatch.setitem(cls.archs, "mini", cls.parse_arch(small_arch(name)))


def arguments(name: str, folder: Path) -> list[str]:
    """MODEL and options of a small model."""
    if name in ("CaiT", "CeiT"):
        pytest.importorskip("mmpretrain")
        return [str(classifier(folder, name))]
    return [name, "--arch", "mini"]


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_page_has_the_sections_of_its_family(name, folders, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(columns, "SIDE", 64)
    model, *options = arguments(name, tmp_path)
    out = tmp_path / "page.html"
    verb("look", model, folders, "-o", out, "--size", 96, "--pictures", 1, *options)
    assert capsys.readouterr().out.startswith(f"{out}: ")
    text = out.read_text()
    assert re.findall(r"<h2>(.*?)</h2>", text) == PAGES[name]
    assert "://" not in text  # opens without a network
    assert ("linear CKA with the labels, 8 photographs" in text) == (name == "RevCol")
    assert ("measured; they grow with the number of pixels" in text) == (name == "RevCol")
    assert ("mixing off: maps similar at 0.8, blocks blocks.0 to blocks.3" in text) == (name in ("DeepViT", "CaiT"))
    assert ("distillation token" in text) == (name == "DeiT")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_a_click_into_the_photograph_changes_the_attention(folders, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    torch.save({"model": draw(PlainViT(VIT)).state_dict()}, weights := tmp_path / "drawn.pth")
    model, *options = arguments("PlainViT", tmp_path)
    out = tmp_path / "page.html"
    verb("look", model, weights, folders, "-o", out, "--size", 96, "--pictures", 1, "--blocks", -1, *options)
    with playwright.sync_playwright() as tool:
        page = tool.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]).new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        for width in (1280, 500):
            page.set_viewport_size(dict(width=width, height=900))
            page.goto(out.as_uri(), wait_until="load")
            assert page.evaluate("document.documentElement.scrollWidth") <= width

        def maps() -> list[str]:
            return page.evaluate("[...document.querySelectorAll('.heads canvas')].map(map => map.toDataURL())")

        start, area = maps(), page.locator(".photo").bounding_box()
        assert len(start) == len(set(start)) == 2  # heads
        assert page.locator(".photo span").is_hidden()  # the class token has no place
        page.locator(".photo").click(position=dict(x=area["width"] - 2, y=area["height"] - 2))
        clicked = maps()
        assert all(one != other for one, other in zip(start, clicked, strict=True))
        mark = page.locator(".photo span").bounding_box()
        assert mark["x"] + mark["width"] / 2 > area["x"] + 0.75 * area["width"]
        page.locator(".photo").click(position=dict(x=2, y=2))
        assert maps() != clicked
        page.get_by_role("button", name="class token").click()
        assert maps() == start
        assert errors == []


@pytest.mark.slow
def test_models_of_other_packages_have_their_levels(folders, tmp_path):
    pytest.importorskip("mmpretrain")
    out = tmp_path / "page.html"
    verb("look", "mmpretrain::resnet/resnet18_8xb16_cifar10.py", folders, "-o", out, "--size", 64)
    assert re.findall(r"<h2>(.*?)</h2>", out.read_text()) == [LEVELS]


def test_unreadable_files_are_skipped(folders, tmp_path, capsys):
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    shutil.copy(next((folders / "a").iterdir()), mixed / "good.jpg")
    (mixed / "broken.jpg").write_bytes(b"<html>")
    (mixed / "film.mp4").write_bytes(b"")
    given = ["PlainViT", mixed, "-o", tmp_path / "page.html", "--size", 64, "--arch", "mini"]
    assert cli.run("look", list(map(str, given))) == 3
    said = capsys.readouterr().err
    assert "broken.jpg: not a readable image" in said
    assert "film.mp4: a video; give some of its frames" in said


def test_checkpoints_are_told_from_images():
    assert all(is_checkpoint(f"file{suffix}") for suffix in WEIGHTS)
    assert is_checkpoint("https://host/revcol")
    assert not any(map(is_checkpoint, ("photo.jpg", "folder", "*.png")))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("RevCol", "{photo}", "-o", "page.txt"), "-o page.txt: the name of the page must end in .html"),
        (("RevCol", "{photo}", "-o", "{page}"), "page.html exists; name another file"),
        (("RevCol", "{photo}", "--size", 0), "--size is 0; it must be 1 or more"),
        (("RevCol", "{photo}", "--pictures", 0), "--pictures is 0; it must be 1 or more"),
        (("RevCol", "{photo}", "--similar", 80), "--similar is 80.0; it is a cosine, from -1 to 1"),
        (("RevCol", "{photo}", "--similar-heads", "nan"), "--similar-heads is nan; it is a cosine"),
        (("RevCol", "none.pth"), "there is no image: name images, folders or patterns behind none.pth"),
        (("RevCol", "none.pth", "{photo}", "--arch", "mini"), "RevCol: checkpoint none.pth does not exist"),
        (("RevCol", "none.jpg"), "there is no image or video (none.jpg: there is no such file)"),
        (("RevCol", "{page}", "--arch", "mini"), "no input can be read as an image, so nothing is written"),
        (("RevCol", "{photo}", "--arch", "tinny"), "RevCol: unknown arch 'tinny'"),
        (("RevKol", "{photo}"), "RevKol is neither a config (FILE.py) nor a backbone: "),
        (("RevCol", "{photo}", "--arch", "mini", "--size", 20), "pixels at this --size, and RevCol takes 32 x 32"),
        (("RevCol", "{photo}", "--arch", "mini", "--size", 64, "--blocks", 0), "it has none that attend globally"),
        (("{small}", "{photo}", "--arch", "tiny"), "--arch and --options belong to a backbone"),
        (("{part}", "{photo}"), "the model cannot be built"),
        (("RevCol", "{photo}", "--arch", "mini", "--device", "cuda:9"), "--device cuda:9: "),
    ],
)
def test_wrong_input_is_named(arguments, message, folders, tmp_path, fail):
    files = dict(photo=next((folders / "a").iterdir()), page=tmp_path / "page.html", part=tmp_path / "part.py")
    files["small"] = ROOT / "configs" / "revcol_maskrcnn_coco.py"
    files["page"].write_text("mine")
    files["part"].write_text("model = dict(type='Nothing')\n")
    given = [str(word).format(**files) for word in arguments]
    out = [] if "-o" in given else ["-o", tmp_path / "new.html"]
    assert message in fail("look", *given, *out)
    assert files["page"].read_text() == "mine"
    assert not (tmp_path / "new.html").exists()


def test_blocks_that_do_not_exist_are_named(folders, tmp_path, fail):
    given = ("PlainViT", folders, "-o", tmp_path / "page.html", "--size", 64, "--blocks", 4, "--arch", "mini")
    assert "--blocks names 4, which PlainViT mini does not have: it has 4 that attend globally, 0 to 3" in fail(
        "look", *given
    )


@pytest.mark.slow
def test_commands_of_the_learn_page_run(folders, tmp_path, monkeypatch):
    pytest.importorskip("mmpretrain")
    monkeypatch.setattr(columns, "SIDE", 64)
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "learn" / "look.md").read_text()
    commands = [shlex.split(line) for line in re.findall(r"^densebackbones look (.+)$", text, re.M)]
    assert len(commands) == 3
    names = {
        "photographs": folders,
        "photo.jpg": next((folders / "a").iterdir()),
        "flowers/val": folders,
        "CONFIG": classifier(tmp_path, "CeiT"),
    }
    monkeypatch.setitem(backbones.DeepViT.archs, "mini", backbones.DeepViT.parse_arch(dict(VIT, depth=16)))
    for name, file in (("RevCol", "revcol_tiny_1k.pth"), ("DeepViT", "deepvit_s.pth")):
        torch.save(getattr(backbones, name)("mini").state_dict(), tmp_path / file)
    for words in commands:
        given = [str(names.get(word, word)) for word in words if word != "CHECKPOINT"]
        options = ["--arch", "mini"] if given[0] in ("RevCol", "DeepViT") else []
        verb("look", *given, "--size", 96, "--pictures", 1, *options)
        assert Path(given[given.index("-o") + 1]).is_file()

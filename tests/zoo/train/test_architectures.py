import pytest
import torch

from lightning_gengap.zoo.train.architectures import ARCHITECTURES
from lightning_gengap.zoo.train.shape import Shape

IMAGES = sorted(name for name, one in ARCHITECTURES.items() if one.of == "images")
TEXTS = sorted(name for name, one in ARCHITECTURES.items() if one.of == "texts")
VECTORS = sorted(name for name, one in ARCHITECTURES.items() if one.of == "vectors")


def built(family: str, depth: int, **changes: int) -> torch.nn.Module:
    torch.manual_seed(0)
    fields = {"channels": 3, "side": 32, "classes": 5, "width": 8, "depth": depth, "dropout": 0.1} | changes
    return ARCHITECTURES[family].build(Shape(**fields))  # type: ignore[arg-type]


def learns_everywhere(model: torch.nn.Module, inputs: torch.Tensor) -> None:
    """Logits have a shape, and every parameter has a gradient that is finite and not all zero."""
    logits = model(inputs)
    assert logits.shape == (len(inputs), 5)
    torch.nn.functional.cross_entropy(logits, torch.arange(len(inputs)) % 5).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if not name.endswith("in_proj_bias") and "bias" not in name:  # biases before a norm have none
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("family", [*IMAGES, "mlp"])
@pytest.mark.parametrize(("side", "channels"), [(32, 3), (28, 1)])
@pytest.mark.parametrize("depth", [1, 2])
def test_families_of_images_classify_them(family: str, side: int, channels: int, depth: int):
    learns_everywhere(built(family, depth, side=side, channels=channels), torch.randn(10, channels, side, side))


@pytest.mark.parametrize("family", VECTORS)
@pytest.mark.parametrize(("depth", "norm"), [(1, True), (2, False)])
def test_families_of_vectors_classify_them(family: str, depth: int, norm: bool):
    model = built(family, depth, side=1, channels=7, norm=norm)
    learns_everywhere(model, torch.randn(10, 7))
    assert norm == any(isinstance(part, torch.nn.BatchNorm1d) for part in model.modules())


@pytest.mark.parametrize("family", TEXTS)
@pytest.mark.parametrize("depth", [1, 2])
def test_families_of_texts_classify_them_and_do_not_see_padding(family: str, depth: int):
    model = built(family, depth, side=1, channels=9, vocabulary=20)
    tokens = torch.randint(1, 20, (10, 9))
    tokens[:, 6:] = 0
    tokens[0] = 0  # a text without a word
    learns_everywhere(model, tokens)
    model.eval()
    whole = model(tokens)
    assert whole.isfinite().all()
    # A transformer has a position for each of nine words, and convolutions see a little beyond the last word.
    if family in ("embedding_bag", "text_lstm"):
        torch.testing.assert_close(model(tokens[:, :6]), whole)
    changed = model.embed.weight.data
    changed[0] = 100.0  # nothing is seen of what padding is embedded as, but by a neighbouring convolution
    if family != "text_convolution":
        torch.testing.assert_close(model(tokens)[1:], whole[1:])


def test_patches_are_of_four_pixels_from_32_on_and_of_a_quarter_below():
    assert [Shape(3, side, 2, 8, 1).patch for side in (8, 16, 28, 32, 64, 2)] == [2, 4, 7, 4, 4, 1]
    for family in ("vit", "mixer"):
        assert built(family, 1).embed(torch.zeros(1, 3, 32, 32)).shape[2:] == (8, 8)

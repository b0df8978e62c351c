"""Image and text towers: shapes at other sizes, visible tokens only, local weights, tokens of texts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import RobertaConfig

from benchmark import hub
from benchmark.data.text import split_sentences, train_tokenizer
from benchmark.errors import Unavailable, UserError
from methods import text_encoder
from methods.encoders import ImageTower, SwinTower, build_image_tower, sincos_positions
from methods.text_encoder import TextTower, sentence_starts

REPORTS = (
    "There is a small left pleural effusion. The heart is enlarged.",
    "No focal consolidation. No pneumothorax or effusion. Heart size is normal.",
)
SHAPE = (32, 2, 2, 16)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(REPORTS, 200)


def tower(encoder: str = "vit", weights: str = "none", size: int = 64, channels: int = 1) -> ImageTower:
    torch.manual_seed(0)
    return build_image_tower(encoder, weights, size, channels, SHAPE).eval()


@pytest.mark.parametrize("encoder", ["vit", "resnet"])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 96), (64, 112), (70, 50)])
def test_maps_have_the_promised_channels_and_strides_at_any_size(encoder: str, height: int, width: int) -> None:
    model = tower(encoder)
    maps = model.maps(torch.randn(2, 1, height, width))
    assert len(maps) == len(model.info)
    for item, (channels, stride) in zip(maps, model.info):
        assert item.shape == (2, channels, -(-height // stride), -(-width // stride))
        assert torch.isfinite(item).all()
    tokens = model.forward_tokens(torch.randn(2, 1, height, width))
    assert tokens.shape == (2, model.prefix + maps[-1].shape[2] * maps[-1].shape[3], model.width)


def test_resnet_gives_strides_4_to_32() -> None:
    assert [stride for _, stride in tower("resnet").info] == [4, 8, 16, 32]


def test_map_positions_are_where_the_patches_are() -> None:
    model = tower(size=64)
    images = torch.zeros(1, 1, 64, 96)
    changed = images.clone()
    changed[:, :, 16:32, 80:96] = 3.0  # row 1, column 5
    difference = (model.maps(changed)[0] - model.maps(images)[0]).norm(dim=1)[0]
    assert divmod(int(difference.argmax()), 6) == (1, 5)


def test_hidden_patches_do_not_reach_the_visible_tokens() -> None:
    model = tower()
    images, keep = torch.randn(2, 1, 64, 64), torch.tensor([[5, 0, 9], [15, 2, 3]])
    before = model.forward_tokens(images, keep)
    assert before.shape == (2, model.prefix + 3, 32)
    hidden = torch.ones(2, 16, dtype=torch.bool).scatter(1, keep, False).reshape(2, 1, 4, 4)
    images[hidden.repeat_interleave(16, 2).repeat_interleave(16, 3)] = 7.0
    assert torch.equal(model.forward_tokens(images, keep), before)


def test_keeping_all_patches_equals_no_mask() -> None:
    model, images = tower(), torch.randn(2, 1, 64, 64)
    order = torch.stack([torch.randperm(16), torch.randperm(16)])
    kept = model.forward_tokens(images, order)[:, model.prefix :]
    every = model.forward_tokens(images)[:, model.prefix :]
    assert torch.allclose(kept, every.gather(1, order.unsqueeze(-1).expand(-1, -1, 32)), atol=1e-5)


def test_convolutional_tower_refuses_visible_tokens() -> None:
    with pytest.raises(ValueError, match="visible patches"):
        tower("resnet").forward_tokens(torch.randn(1, 1, 64, 64), torch.tensor([[0]]))


def test_sincos_code_equals_a_loop() -> None:
    code = sincos_positions(2, 3, 8)
    for row in range(2):
        for column in range(3):
            angles = [row, row / 100, column, column / 100]
            expected = [
                f(torch.tensor(angle)) for pair in (angles[:2], angles[2:]) for f in (torch.sin, torch.cos) for angle in pair
            ]
            assert torch.allclose(code[3 * row + column], torch.stack(expected).float(), atol=1e-6)


@pytest.mark.parametrize("encoder", ["vit", "resnet"])
def test_local_weights_are_loaded_and_three_channels_summed(encoder: str, tmp_path: Path) -> None:
    source = tower(encoder, channels=3)
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(0.01)
    path = tmp_path / "weights.safetensors"
    save_file({**source.model.state_dict(), "head.weight": torch.zeros(2)}, path)
    images = torch.randn(2, 1, 64, 64)
    expected = source.forward_tokens(images.expand(-1, 3, -1, -1))
    assert torch.allclose(tower(encoder, str(path)).forward_tokens(images), expected, atol=1e-4)


def test_local_weights_of_another_input_size_interpolate_positions(tmp_path: Path) -> None:
    save_file(tower(size=64).model.state_dict(), tmp_path / "weights.safetensors")
    larger = tower(weights=str(tmp_path / "weights.safetensors"), size=96)
    images = torch.randn(1, 1, 96, 96)
    assert torch.allclose(larger.forward_tokens(images), tower(size=64).forward_tokens(images), atol=1e-5)


def test_weights_of_another_model_are_refused_by_name(tmp_path: Path) -> None:
    save_file({"other": torch.zeros(1)}, tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match="another model"):
        tower(weights=str(tmp_path / "weights.safetensors"))


def test_missing_weights_name_both_ways() -> None:
    with pytest.raises(Unavailable, match=r"not there.*--set image_weights=FILE.*huggingface\.co"):
        tower(weights="absent.safetensors")


@pytest.mark.parametrize("encoder", ["vit", "resnet50.a1_in1k"])
def test_hub_weights_offline_are_unavailable_never_random(
    encoder: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda repository, file: None)
    with pytest.raises(Unavailable, match=r"HF_HUB_OFFLINE.*--set image_weights=FILE.*huggingface\.co"):
        build_image_tower(encoder, "timm", 224, 3)
    with pytest.raises(Unavailable, match=r"Bio_ClinicalBERT.*text_weights=FOLDER.*huggingface\.co"):
        TextTower((768, 12, 12), 112, 0.1, "hub", None)


def test_an_unreachable_hub_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "ENDPOINT", "http://127.0.0.1:9")  # the discard port: nothing listens
    monkeypatch.setattr(hub, "getproxies", dict)
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda repository, file: None)
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1 cannot be reached"):
        build_image_tower("resnet50.a1_in1k", "timm", 224, 3)


def test_unknown_timm_model_is_named() -> None:
    with pytest.raises(UserError, match=r"'resnet5o' is no timm model"):
        tower("resnet5o")


@pytest.mark.parametrize("size", [128, 224])
def test_a_swin_is_the_same_tower_at_any_size(size: int) -> None:
    model = tower("swin_tiny_patch4_window7_224", size=size)
    assert isinstance(model, SwinTower)
    images = torch.randn(1, 1, 128, 96)
    with torch.no_grad():
        maps, tokens = model.maps(images), model.forward_tokens(images)
    assert [item.shape[1:] for item in maps] == [(96, 32, 24), (192, 16, 12), (384, 8, 6), (768, 4, 3)]
    assert torch.allclose(tokens.mean(dim=-1), torch.zeros(1, 12), atol=1e-5), "the last map is normalized"


def test_a_model_of_one_size_is_refused_when_it_is_built() -> None:
    with pytest.raises(UserError, match=r"'eva02_tiny_patch14_224' .*image_size=128.*--set image_size=224"):
        tower("eva02_tiny_patch14_224", size=128)
    fits = tower("eva02_tiny_patch14_224", size=224)
    assert fits.forward_tokens(torch.zeros(1, 1, 224, 224)).shape == (1, 256, fits.width)


def test_a_model_that_reads_other_sizes_than_its_own_is_built_in_training_mode() -> None:
    torch.manual_seed(0)
    model = build_image_tower("xcit_nano_12_p16_224", "none", 128, 1)  # timm calls its size fixed
    state = torch.get_rng_state()
    assert all(module.training for module in model.modules())
    assert model.forward_tokens(torch.zeros(1, 1, 128, 128)).shape == (1, 64, 128)
    torch.manual_seed(0)
    build_image_tower("xcit_nano_12_p16_224", "none", 224, 1)
    assert torch.equal(state, torch.get_rng_state()), "to try a size draws nothing"


@pytest.mark.parametrize("shape", [SHAPE, (768, 6, 12, 16), (768, 12, 12, 32)])
def test_hub_weights_of_a_vit_need_the_shape_they_have(shape: tuple[int, int, int, int]) -> None:
    with pytest.raises(UserError, match=r"image_weights=timm.*ViT-B/16.*image_width=768.*patch_size=16"):
        build_image_tower("vit", "timm", 224, 3, shape)


def text_tower(tokenizer: Tokenizer, limit: int = 40, weights: str = "none") -> TextTower:
    torch.manual_seed(0)
    return TextTower((16, 1, 2), limit, 0.0, weights, tokenizer).eval()


def test_tokens_carry_sentences_words_and_special_marks(tokenizer: Tokenizer) -> None:
    text = text_tower(tokenizer).prepare(REPORTS)
    for row, report in enumerate(REPORTS):
        real = text.mask[row] & ~text.special[row]
        assert text.ids[row, 0] == tokenizer.token_to_id("[CLS]")
        assert text.ids[row][text.mask[row]][-1] == tokenizer.token_to_id("[SEP]")
        assert (text.ids[row][~text.mask[row]] == tokenizer.token_to_id("[PAD]")).all()
        for number, sentence in enumerate(split_sentences(report)):
            ids = text.ids[row][text.sentences[row] == number].tolist()
            assert ids == tokenizer.encode(sentence, add_special_tokens=False).ids
        assert text.words[row][real].tolist() == sorted(text.words[row][real].tolist())
        assert int(text.words[row].max()) + 1 == len(report.replace(".", " .").split())
        assert (text.sentences[row][~real] == -1).all()
        assert (text.words[row][~real] == -1).all()
    assert text.truncated == 0


def test_long_texts_lose_their_end_and_are_counted(tokenizer: Tokenizer) -> None:
    whole, cut = text_tower(tokenizer).prepare(REPORTS), text_tower(tokenizer, 9).prepare([*REPORTS, "heart"])
    assert cut.truncated == 2
    assert cut.ids.shape[1] == 9
    assert torch.equal(cut.ids[:2, :8], whole.ids[:, :8])
    assert (cut.ids[:2, 8] == tokenizer.token_to_id("[SEP]")).all()
    assert cut.special[:2, 8].all()


def test_empty_texts_and_no_texts_work(tokenizer: Tokenizer) -> None:
    model = text_tower(tokenizer)
    text = model.prepare(["", "   "])
    assert text.ids.tolist() == [[tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")]] * 2
    assert torch.isfinite(model(text.ids, text.mask)).all()
    assert model.prepare([]).ids.shape == (0, 2)


def test_repeated_sentences_are_found_in_order() -> None:
    text = "No effusion.\nNo effusion. Clear."
    assert sentence_starts(text) == [0, 13, 26]


def test_padding_does_not_change_a_text(tokenizer: Tokenizer) -> None:
    model = text_tower(tokenizer)
    short, both = model.prepare(REPORTS[:1]), model.prepare(REPORTS)
    alone, padded = model(short.ids, short.mask)[0], model(both.ids, both.mask)[0]
    assert both.ids.shape[1] > short.ids.shape[1]
    assert torch.allclose(padded[: len(alone)], alone, atol=1e-5)


def test_the_given_tokenizer_is_left_as_it_was(tokenizer: Tokenizer) -> None:
    own = Tokenizer.from_str(tokenizer.to_str())
    own.enable_truncation(3)
    assert text_tower(own).prepare(REPORTS).ids.shape[1] > 3
    assert own.truncation is not None


def test_local_text_weights_bring_their_vocabulary(tokenizer: Tokenizer, tmp_path: Path) -> None:
    source = text_tower(tokenizer)
    source.bert.save_pretrained(tmp_path)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    other = train_tokenizer(["entirely different words"], 60)
    torch.manual_seed(1)
    loaded = TextTower((16, 1, 2), 40, 0.0, str(tmp_path), other).eval()
    text = loaded.prepare(REPORTS)
    assert torch.equal(text.ids, source.prepare(REPORTS).ids)
    assert torch.allclose(loaded(text.ids, text.mask), source(text.ids, text.mask), atol=1e-6)
    with pytest.raises(UserError, match="width, layers, heads"):
        TextTower((32, 1, 2), 40, 0.0, str(tmp_path), other)
    with pytest.raises(UserError, match="max_tokens"):
        TextTower((16, 1, 2), 41, 0.0, str(tmp_path), other)


def test_text_weights_of_another_kind_of_model_are_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    config = RobertaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="is a roberta model"):
        text_tower(tokenizer, weights=str(tmp_path))


def test_text_weights_by_name_are_the_hubs(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda repository, file: None)
    with pytest.raises(Unavailable, match="'microsoft/some-bert' are not in the local cache"):
        text_tower(tokenizer, weights="microsoft/some-bert")


def test_missing_text_weights_and_tokenizers_are_told(tokenizer: Tokenizer) -> None:
    with pytest.raises(Unavailable, match="not there"):
        text_tower(tokenizer, weights="absent-folder")
    with pytest.raises(UserError, match="give it a tokenizer"):
        TextTower((16, 1, 2), 40, 0.0, "none", None)


def test_attention_is_scaled_dot_product(tokenizer: Tokenizer) -> None:
    assert text_tower(tokenizer).bert.config._attn_implementation == "sdpa"
    assert all(block.attn.fused_attn for block in tower().model.blocks)
    assert text_encoder.HUB_NAME.endswith("Bio_ClinicalBERT")

"""PRIOR's three stages and its zero-shot scores, whole, against recorded values and gradients of the released code."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score, precision_score, recall_score
from torch import Tensor

from benchmark.data.text import train_tokenizer
from benchmark.types import Features
from methods.prior import PRIOR
from methods.prior_alignment import zero_shot_scores
from methods.prior_config import PRIORConfig
from methods.prior_reconstruction import ReportDecoder
from tests.golden import Case, assert_gradient, assert_output, needs_golden
from tests.test_prior_golden import assert_parameter_gradient

pytestmark = needs_golden

TERMS = {
    "contrast": ("global_alignment_loss", 1), "image_local": ("local_image_loss", 1), "text_local": ("local_text_loss", 1),
    "prototype": ("proto_loss_", 10), "pixels": ("rec_image_loss", 1), "sentences": ("spg_loss", 10),
    "divergence": ("kl_loss", 1), "report": ("gpa_loss", 1), "total": ("loss", 1),
}  # fmt: skip
DEAD = ("global_text_projection.", "sentence_decoder.embeddings.word_embeddings.")  # in the file, in no output


def official(**changed: object) -> PRIOR:
    """The whole method at the sizes of the recorded steps, with the quirks that they keep."""
    config = PRIORConfig(
        image_size=224, patch_size=32, image_width=48, image_depth=1, image_heads=4, text_width=40, text_layers=1, text_heads=4,
        embed_dim=32, prototypes=8, max_sentences=6, decoder_layers=8, decoder_heads=4, decoder_positions=16,
        image_decoder_channels=0, patch_layout="official", inverse_permutation=True, causal_decoder=True,
    )  # fmt: skip
    model = PRIOR.build(replace(config, **changed), train_tokenizer(["clear lungs."], 50))
    model.sentence_decoder = ReportDecoder((32, 8, 4, 64), 16, 0.0, bool(model.config.causal_decoder))
    return model.eval()


def load(model: PRIOR, weights: dict[str, Tensor]) -> None:
    ours = {
        name.replace("sentence_decoder.", "sentence_decoder.bert."): value
        for name, value in weights.items()
        if not name.startswith(DEAD)
    }
    found = model.load_state_dict(ours, strict=False)
    assert not found.unexpected_keys


@pytest.mark.parametrize(("stage", "prefix"), [(1, "stage1"), (2, "stage2"), (3, "stage3"), (3, "corrected_stage3")])
def test_a_step_of_every_stage(stage: int, prefix: str) -> None:
    case = Case(f"prior/stage{stage}_step")
    model = official(inverse_permutation=not prefix.startswith("corrected"))
    load(model, case.weights())
    patches, pooled = case.leaf("in/local_map_features"), case.leaf("in/global_map_feature")
    words, index = case.leaf("in/token_features"), case["in/sentence_index"]
    view = model.view((patches, pooled), words, index, torch.ones_like(index, dtype=torch.bool))
    images = case["in/image"] / case.number("hp/image_divisor") if stage == 3 else torch.zeros(3, 1, 224, 224)
    terms = model.terms(view, images, stage)
    outputs = {key for key in case.arrays if key.startswith(f"out/{prefix}_")}
    assert len(terms) == len(outputs)
    for name, value in terms.items():
        key, weight = TERMS[name]
        assert_output(weight * value, case[f"out/{prefix}_{key}"], 1e-4)
    if prefix.startswith("corrected"):
        return  # values alone are recorded
    terms["total"].backward()
    leaves = {"local_map_features": patches, "global_map_feature": pooled, "token_features": words}
    for name, leaf in leaves.items():
        assert_gradient(leaf.grad, case[f"grad/{name}"])
    recorded = {key[5:] for key in case.arrays if key.startswith("grad/")} - set(leaves)
    found = {name.replace("sentence_decoder.bert.", "sentence_decoder."): item for name, item in model.named_parameters()}
    for name in recorded:
        assert_parameter_gradient(found[name].grad, case, f"grad/{name}")
    assert len(recorded) == {1: 32, 2: 33, 3: 122}[stage]


def prompts_of(model: PRIOR, case: Case) -> Features:
    """(classes * prompts) features; the released code keeps the tokens [1:-1]."""
    words, mask = case["in/prompt_token_features"].flatten(0, 1), case["in/prompt_attention_mask"].flatten(0, 1).bool()
    mask[:, 0] = mask[:, -1] = False
    return model.prompt_features(words, mask)


@pytest.mark.parametrize("raw", [True, False])
def test_zero_shot_scores_with_the_raw_and_the_right_scale(raw: bool) -> None:
    case = Case("prior/zero_shot_one_prompt")
    model = official(raw_logit_scale=raw, prototypes=512)
    load(model, case.weights())
    model.bank_since.fill_(0)
    with torch.inference_mode():
        patches, pooled = model._project_image(case["in/local_map_features"], case["in/global_map_feature"])
        image = Features(torch.nn.functional.normalize(pooled, dim=1), patches)
        prompt = prompts_of(model, case)
        overall, local = (item.unflatten(1, (5, 1)) for item in model.zero_shot(image, prompt))
    assert prompt.tokens is not None
    assert_output(prompt.tokens, case["out/local_prompt"])
    assert_output(prompt.pooled, torch.nn.functional.normalize(case["out/global_prompt"].flatten(0, 1), dim=1))
    assert_output(local, case["out/local_scores"])
    scores = zero_shot_scores(overall, local, case.number("hp/local_weight"))
    if raw:
        assert_output(overall, case["out/global_logits"])
        assert_output(scores, case["out/score"])
        assert torch.equal(scores.argmax(dim=1), case["out/prediction"])
    else:
        scale = model.logit_scale.detach()
        assert_output(overall, case["out/global_logits"] * scale.exp() / scale)


def test_zero_shot_takes_the_best_prompt_overall_and_the_mean_prompt_locally() -> None:
    overall, local = torch.tensor([[[1.0, 3.0], [2.0, 2.0]]]), torch.tensor([[[0.0, 4.0], [1.0, 1.0]]])
    expected = torch.tensor([[3.0, 2.0]]).softmax(1) + 0.5 * torch.tensor([[2.0, 1.0]]).softmax(1)
    assert_output(zero_shot_scores(overall, local), expected)


def test_metrics_of_the_released_zero_shot_code_are_those_of_scikit_learn() -> None:
    case = Case("prior/zero_shot_metrics")
    true, found = case["in/labels"].numpy(), case["in/predictions"].numpy()
    assert accuracy_score(true, found) == pytest.approx(case.number("out/test_acc"))
    assert precision_score(true, found, average="macro") == pytest.approx(case.number("out/test_precision"))
    assert recall_score(true, found, average="macro") == pytest.approx(case.number("out/test_recall"))
    assert f1_score(true, found, average="macro") == pytest.approx(case.number("out/test_f1_score"))
    assert cohen_kappa_score(true, found) == pytest.approx(case.number("out/test_kappa"))

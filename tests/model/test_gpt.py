"""The GPT: equal to two other implementations and to values worked by hand, and its initial weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.config.run import DataConfig, ModelConfig, RunConfig
from harness.core.metrics import perplexity
from harness.data import open_dataset
from harness.model.cross_entropy import ROWS
from harness.model.gpt import GPT, Attention, Block
from harness.model.init import INIT_STD, build_gpt
from helpers import lively_gpt, random_tokens, small_config
from references import Reference, book, hugging_face

SHAPE = {"context_length": 24, "emb_dim": 32, "n_heads": 4, "n_layers": 2}


def config_of(**model: Any) -> RunConfig:
    return small_config(model={**SHAPE, **model})


# Against other implementations

BOOK = [pytest.param(book, {"qkv_bias": bias}, id=f"book-bias={bias}") for bias in (False, True)]
HUGGING_FACE = [
    pytest.param(hugging_face, {"qkv_bias": bias, "tie_embeddings": tied}, id=f"transformers-bias={bias}-tied={tied}")
    for bias in (False, True)
    for tied in (False, True)
]


@pytest.mark.parametrize(("reference_of", "shape"), BOOK + HUGGING_FACE)
def test_logits_loss_and_gradients_equal_another_implementations(
    reference_of: Callable[[RunConfig, GPT], Reference], shape: dict[str, bool]
) -> None:
    config = config_of(**shape)
    ours = lively_gpt(config)
    reference = reference_of(config, ours)
    reference.module.eval()
    tokens, targets = random_tokens(3, 24, seed=1), random_tokens(3, 24, seed=2)

    with torch.no_grad():
        mine, theirs = ours(tokens), reference.logits(tokens)
    assert mine.std() > 0.5  # else the comparison below would hold for any logits near zero
    torch.testing.assert_close(mine, theirs, rtol=0, atol=2e-5)

    loss = ours.loss(tokens, targets)
    other = F.cross_entropy(reference.logits(tokens).flatten(0, 1), targets.flatten())
    assert loss.item() == pytest.approx(other.item(), abs=2e-6)
    loss.backward()
    other.backward()
    gradients = reference.gradients()
    assert set(gradients) == {name for name, _ in ours.named_parameters()}
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None
        if "W_key.bias" not in name:  # shifts all scores of a query equally: its gradient is only rounding
            assert parameter.grad.abs().max() > 1e-5, name
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=2e-6, msg=name)


# By hand


def three_token_gpt() -> GPT:
    """A GPT with known logits: (ln 1, ln 2, ln 5) after token 0, their negatives after token 1, zeros after token 2.

    Its block adds nothing and its positions are zero, so a feature is the normalised token embedding: (1, -1) for
    token 0, (-1, 1) for token 1 and (0, 0) for token 2 (the norm's epsilon does not matter with a variance of 10⁶).
    """
    config = ModelConfig(context_length=7, emb_dim=2, n_heads=1, n_layers=1, drop_rate=0.0)
    model = GPT(config, vocab_size=3)
    with torch.no_grad():
        for parameter in (model.pos_emb.weight, *model.trf_blocks.parameters()):
            parameter.zero_()
        model.tok_emb.weight.copy_(torch.tensor([[1000.0, -1000.0], [-1000.0, 1000.0], [0.0, 0.0]]))
        model.out_head.weight.copy_(torch.tensor([[math.log(1), 0.0], [math.log(2), 0.0], [math.log(5), 0.0]]))
    return model.eval()


SEVEN_TOKENS = [0, 1, 2, 0, 1, 0, 2]
SEVEN_TARGETS = [2, 0, 1, 0, 2, 1, 2]
# softmax of (ln 1, ln 2, ln 5) is (1, 2, 5)/8, of its negative (10, 5, 2)/17, of zeros (1, 1, 1)/3
SEVEN_PROBABILITIES = [5 / 8, 10 / 17, 1 / 3, 1 / 8, 2 / 17, 2 / 8, 1 / 3]


def test_cross_entropy_of_seven_tokens_by_hand() -> None:
    model = three_token_gpt()
    tokens, targets = torch.tensor([SEVEN_TOKENS]), torch.tensor([SEVEN_TARGETS])
    by_hand = -sum(math.log(p) for p in SEVEN_PROBABILITIES) / 7
    assert by_hand == pytest.approx(8.803658 / 7, abs=1e-6)  # .470004 + .530628 + 1.098612 + 2.079442 + …
    assert model.loss(tokens, targets).item() == pytest.approx(by_hand, abs=1e-6)
    each = model.token_losses(tokens, targets)
    assert each[0].tolist() == pytest.approx([-math.log(p) for p in SEVEN_PROBABILITIES], abs=1e-6)
    geometric_mean = math.prod(SEVEN_PROBABILITIES) ** (1 / 7)
    assert perplexity(model.loss(tokens, targets).item()) == pytest.approx(1 / geometric_mean, rel=1e-6)


def test_the_logits_of_the_example_are_as_documented() -> None:
    after = torch.tensor([[math.log(1), math.log(2), math.log(5)], [0.0, -math.log(2), -math.log(5)], [0.0, 0.0, 0.0]])
    with torch.no_grad():
        logits = three_token_gpt()(torch.tensor([SEVEN_TOKENS]))[0]
    torch.testing.assert_close(logits, after[SEVEN_TOKENS], rtol=0, atol=1e-6)


@pytest.mark.parametrize("rows", [1, ROWS - 1, ROWS, ROWS + 1, 3 * ROWS + 77])
@pytest.mark.parametrize("tied", [False, True])
def test_the_chunked_loss_is_plain_cross_entropy(rows: int, tied: bool) -> None:
    # float32 sums in another order: differences of a few units in the last place, 1.2e-7 each.
    model = lively_gpt(small_config(model={"context_length": rows, "tie_embeddings": tied}))
    tokens, targets = random_tokens(1, rows, seed=1), random_tokens(1, rows, seed=2)
    plain = F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
    expected = torch.autograd.grad(plain, list(model.parameters()))
    chunked = model.loss(tokens, targets)
    found = torch.autograd.grad(chunked, list(model.parameters()))
    assert chunked.item() == pytest.approx(plain.item(), rel=1e-6)
    assert model.token_losses(tokens, targets).mean().item() == pytest.approx(plain.item(), rel=1e-6)
    for mine, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-6)


def test_the_chunked_loss_scales_its_gradients() -> None:
    # a fused loss computes its gradient in the forward pass, and must still apply the factor
    model = lively_gpt(config_of())
    tokens, targets = random_tokens(2, 24, seed=1), random_tokens(2, 24, seed=2)
    once = torch.autograd.grad(model.loss(tokens, targets), model.out_head.weight)[0]
    thrice = torch.autograd.grad(3 * model.loss(tokens, targets), model.out_head.weight)[0]
    torch.testing.assert_close(thrice, 3 * once)


def test_bf16_autocast_gives_nearly_the_float32_loss() -> None:
    # bf16 keeps 8 bits, so a logit of size 5 is off by about 0.01; the mean of 48 losses is off by less.
    model = lively_gpt(config_of())
    tokens, targets = random_tokens(2, 24, seed=1), random_tokens(2, 24, seed=2)
    exact = model.loss(tokens, targets).item()
    with torch.autocast("cpu", torch.bfloat16):
        rough = model.loss(tokens, targets)
    assert rough.dtype == torch.float32
    assert rough.item() == pytest.approx(exact, abs=0.05)


def test_no_position_sees_a_later_token() -> None:
    model = lively_gpt(config_of())
    tokens = random_tokens(1, 24)
    with torch.no_grad():
        before = model(tokens)
        for place in (0, 1, 11, 23):
            changed = tokens.clone()
            changed[0, place] = (changed[0, place] + 1) % 256
            after = model(changed)
            torch.testing.assert_close(after[0, :place], before[0, :place], rtol=0, atol=1e-5)
            assert (after[0, place:] - before[0, place:]).abs().amax(dim=-1).min() > 1e-3  # all later positions change


def test_sequences_of_a_batch_do_not_see_each_other() -> None:
    model = lively_gpt(config_of())
    tokens = random_tokens(4, 24)
    with torch.no_grad():
        alone = torch.cat([model(row[None]) for row in tokens])
        torch.testing.assert_close(model(tokens), alone, rtol=0, atol=1e-5)


def test_more_tokens_than_the_context_are_refused() -> None:
    with pytest.raises(ValueError, match="found 25 tokens; allowed: at most the context_length of 24"):
        build_gpt(config_of())(random_tokens(1, 25))


# Initial weights


def weights(config: RunConfig) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in build_gpt(config).named_parameters()}


def same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype == torch.float32 and one.numpy().tobytes() == other.numpy().tobytes()


def test_the_initial_weights_are_gpt2s() -> None:
    for name, tensor in weights(config_of(emb_dim=64, qkv_bias=True)).items():
        if tensor.dim() == 1:
            assert torch.all(tensor == (1.0 if "norm" in name and name.endswith("weight") else 0.0)), name
            continue
        residual = name.endswith(("att.out_proj.weight", "ff.contract.weight"))
        std = INIT_STD / 2 if residual else INIT_STD  # √(2·n_layers) = 2
        sigma = 1 / math.sqrt(2 * tensor.numel())  # relative standard error of a standard deviation
        assert tensor.std().item() == pytest.approx(std, rel=5 * sigma), name
        assert abs(tensor.mean().item()) < 5 * std / math.sqrt(tensor.numel()), name


def test_all_initial_tensors_differ() -> None:
    tensors = [tensor.flatten()[:64] for tensor in weights(config_of()).values() if tensor.dim() > 1]
    assert len({tuple((t / t.norm()).tolist()) for t in tensors}) == len(tensors)


@pytest.mark.parametrize(
    "change", [{"qkv_bias": True}, {"drop_rate": 0.3}, {"n_heads": 2}, {"tie_embeddings": True}], ids=str
)
def test_shared_initial_tensors_are_bit_equal(change: dict[str, Any]) -> None:
    one, other = weights(config_of()), weights(config_of(**change))
    shared = one.keys() & other.keys()
    assert len(shared) >= len(one) - 1  # tied, the head is not a parameter of its own
    assert all(same(one[name], other[name]) for name in shared)


def test_a_deeper_model_shares_the_initial_weights_of_a_shallower_one() -> None:
    shallow, deep = weights(config_of(n_layers=2)), weights(config_of(n_layers=5))
    assert shallow.keys() < deep.keys()
    for name, tensor in shallow.items():
        if name.endswith(("att.out_proj.weight", "ff.contract.weight")):
            # GPT-2's factor 1/√(2·n_layers), rounded to float32
            torch.testing.assert_close(deep[name], tensor * math.sqrt(2 / 5), rtol=3e-7, atol=0)
        else:
            assert same(tensor, deep[name]), name


def test_a_longer_position_table_begins_with_a_shorter_one() -> None:
    short, long = weights(config_of(context_length=16)), weights(config_of(context_length=24))
    assert same(short.pop("pos_emb.weight"), long.pop("pos_emb.weight")[:16])
    assert all(same(short[name], long[name]) for name in short)


def test_weights_depend_on_the_seed_and_not_on_the_global_generator() -> None:
    torch.manual_seed(1)
    one = build_gpt(small_config(seed=1))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again, other = build_gpt(small_config(seed=1)), build_gpt(small_config(seed=2))
    assert torch.equal(torch.get_rng_state(), state)
    pairs = list(zip(one.parameters(), again.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert not any(torch.equal(a, c) for a, _, c in pairs if a.dim() > 1)


def test_tied_embeddings_are_one_tensor() -> None:
    model = build_gpt(config_of(tie_embeddings=True))
    assert model.out_head.weight is model.tok_emb.weight
    assert len(list(model.parameters())) == len(list(build_gpt(config_of()).parameters())) - 1


# Dropout


def without_dropout(model: GPT, *kinds: type) -> GPT:
    """The model with dropout off in modules of these kinds."""
    for module in model.modules():
        if isinstance(module, kinds):
            setattr(module, "drop_rate", 0.0)  # noqa: B010
    return model


@pytest.mark.parametrize(
    "others", [(Attention, Block), (GPT, Block), (GPT, Attention)], ids=["embeddings", "attention", "residual"]
)
def test_each_dropout_acts_in_training_and_not_in_evaluation(others: tuple[type, ...]) -> None:
    model = without_dropout(lively_gpt(config_of(drop_rate=0.5)), *others)
    plain = lively_gpt(config_of(drop_rate=0.0))
    tokens = random_tokens(2, 24)
    with torch.no_grad():
        assert torch.equal(model(tokens), model(tokens))
        torch.testing.assert_close(model(tokens), plain(tokens), rtol=0, atol=1e-5)
        model.train()
        torch.manual_seed(0)
        one, two = model(tokens), model(tokens)
        torch.manual_seed(0)
        again = model(tokens)
    assert (one - two).abs().mean() > 1e-2
    assert torch.equal(one, again)


def test_both_residual_branches_are_dropped() -> None:
    block = Block(config_of(drop_rate=0.5).model).train()
    block.att.drop_rate = 0.0
    x = torch.randn(2, 8, 32, generator=torch.Generator().manual_seed(0))
    for zeroed in (block.att.out_proj, block.ff.contract):
        with torch.no_grad():
            for module in (block.att.out_proj, block.ff.contract):
                torch.nn.init.ones_(module.weight)
                torch.nn.init.ones_(module.bias)
            zeroed.weight.zero_()
            zeroed.bias.zero_()
            added = block(x) - x  # what the other branch adds: half of it is zeroed, within 5 standard errors
        assert (added == 0).float().mean().item() == pytest.approx(0.5, abs=5 * 0.5 / math.sqrt(x.numel()))


def test_a_model_without_dropout_draws_no_random_numbers() -> None:
    model = lively_gpt(config_of(drop_rate=0.0)).train()
    state = torch.get_rng_state()
    model.loss(random_tokens(1, 24), random_tokens(1, 24)).backward()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("tied", [False, True])
def test_a_corpus_vocabulary_equals_a_full_one_with_the_other_tokens_masked(tied: bool) -> None:
    """The same rows, and logits of minus infinity for the tokens that do not occur."""
    data: dict[str, Any] = {"corpus": "sotu-1820", "tokenizer": "gpt2"}
    corpus = open_dataset(DataConfig(**data, vocab="corpus"))
    vocabulary = torch.from_numpy(np.array(corpus.vocabulary, dtype=np.int64))
    shape = {"tie_embeddings": tied, "emb_dim": 32}
    full = lively_gpt(small_config(data=data, model=shape))
    own = build_gpt(corpus.resolve(small_config(data={**data, "vocab": "corpus"}, model=shape))).eval()
    weights = full.state_dict()
    for name in ("tok_emb.weight", "out_head.weight"):
        weights[name] = weights[name][vocabulary]
    own.load_state_dict(weights)
    ids = torch.from_numpy(corpus.val[:65].astype(np.int64))
    tokens, targets = ids[:-1].view(4, 16), ids[1:].view(4, 16)
    logits = torch.full((64, 50257), -torch.inf)
    logits[:, vocabulary] = full(vocabulary[tokens]).flatten(0, 1)[:, vocabulary]
    expected = F.cross_entropy(logits, vocabulary[targets].flatten())
    assert own.loss(tokens, targets).item() == pytest.approx(expected.item(), rel=1e-6)
    assert own.token_losses(tokens, targets).mean().item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("tied", [False, True])
def test_tokens_have_the_same_initial_weights_in_the_full_and_in_the_corpus_vocabulary(tied: bool) -> None:
    data: dict[str, Any] = {"corpus": "sotu-1820", "tokenizer": "gpt2"}
    corpus = open_dataset(DataConfig(**data, vocab="corpus"))
    vocabulary = np.array(corpus.vocabulary)
    rows = len(vocabulary) + 3
    own = small_config(data={**data, "vocab": "corpus"}, model={"vocab_size": rows, "tie_embeddings": tied}, seed=5)
    full = small_config(data=data, model={"vocab_size": 50257 + 3, "tie_embeddings": tied}, seed=5)
    expected = build_gpt(full).state_dict()
    rows_of = [*vocabulary.tolist(), 50257, 50258, 50259]  # padding rows come last in both
    for name, tensor in build_gpt(own, vocabulary=vocabulary).state_dict().items():
        wanted = expected[name][rows_of] if name in ("tok_emb.weight", "out_head.weight") else expected[name]
        assert torch.equal(tensor, wanted), name


def test_building_a_model_draws_nothing_from_the_global_generator() -> None:
    before = torch.get_rng_state()
    build_gpt(small_config())
    assert torch.equal(torch.get_rng_state(), before)


def test_untrained_rows_are_the_initial_ones_times_their_scale() -> None:
    whole = lively_gpt(small_config())
    few = lively_gpt(small_config())
    few.train_only_rows(torch.tensor([3, 5, 250]))
    tokens = torch.tensor([[3, 250, 5, 5]])
    assert torch.equal(few(tokens), whole(tokens))
    assert torch.equal(few.train()(tokens), whole(tokens))
    few.eval()
    assert torch.equal(few(random_tokens(2, 16)), whole(random_tokens(2, 16)))  # tokens with and without trained rows
    few.untrained_scale = 0.5
    assert torch.equal(few.tok_emb(torch.tensor([3, 4])), whole.tok_emb.weight[3:5] * torch.tensor([[1.0], [0.5]]))
    assert sum(p.numel() for p in few.parameters()) == sum(p.numel() for p in whole.parameters()) - 253 * 16
    kept = few.state_dict()
    assert kept.keys() == whole.state_dict().keys()
    assert torch.equal(kept["tok_emb.weight"][[3, 5, 250]], whole.tok_emb.weight[[3, 5, 250]])
    assert torch.equal(kept["tok_emb.weight"][6:250], whole.tok_emb.weight[6:250] * 0.5)


def test_training_on_a_token_without_a_trained_row_is_an_error() -> None:
    model = build_gpt(small_config(), trained_ids=np.array([1, 2]))
    with pytest.raises(IndexError):
        model.loss(torch.tensor([[1, 3]]), torch.tensor([[2, 2]]))


@pytest.mark.parametrize(("tied", "ids", "rows"), [(False, 204, 204), (False, 205, 256), (True, 204, 256)])
def test_the_embedding_is_sparse_only_if_untied_and_few_rows_are_trained(tied: bool, ids: int, rows: int) -> None:
    model = build_gpt(small_config(model={"tie_embeddings": tied}), trained_ids=np.arange(ids))
    assert len(model.tok_emb.weight) == rows

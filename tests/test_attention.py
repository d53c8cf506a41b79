"""Laws of attention: what it computes, and what it must not look at."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn import nn

Q, K, A = 3, 3, 4  # equal sizes of query and key, so that all kinds take the same
KINDS = {
    "additive": lambda: nn.AdditiveAttention(Q, K, A),
    "dot": lambda: nn.DotAttention(K),
    "multiplicative": lambda: nn.MultiplicativeAttention(Q, K),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
seeds = st.integers(0, 2**32 - 1)
sides = st.integers(1, 4)


def made(kind, rng):
    """Attention with float64 parameters drawn by `rng`."""
    attention = KINDS[kind]()
    for p in attention.parameters():
        p.array = rng.normal(size=p.shape)
    return attention


def score(kind, p, q, k):
    """The score of one key for one query, as in the papers."""
    if kind == "additive":
        return p["weight_score"] @ np.tanh(p["weight_query"] @ q + p["weight_key"] @ k)
    return q @ p["weight"] @ k if kind == "multiplicative" else q @ k


def by_hand(kind, attention, query, keys):
    """Context and weights of one query (Q,) for one source (S, K)."""
    p = attention.state_dict()
    e = np.exp([score(kind, p, query, k) for k in keys])
    return (e / e.sum()) @ keys, e / e.sum()


def example(rng, B, S, T=None):
    query = rng.normal(size=(B, Q) if T is None else (B, T, Q))
    return query, rng.normal(size=(B, S, K)), rng.integers(1, S + 1, B)


def padded(keys, lengths, value):
    """A copy of the keys with `value` in the padding."""
    beyond = np.arange(keys.shape[1]) >= lengths[:, None]
    return np.where(beyond[:, :, None], value, keys)


def leaves(*arrays):
    return [tg.tensor(x, requires_grad=True) for x in arrays]


@every_kind
@given(seed=seeds, B=sides, S=sides)
def test_it_is_the_equations_of_the_papers(kind, seed, B, S):
    """Each row of a padded batch is that source alone, written out in NumPy."""
    rng = np.random.default_rng(seed)
    attention, (query, keys, lengths) = made(kind, rng), example(rng, B, S)
    for given_lengths in (lengths, None):
        context, weights = attention(*leaves(query, keys), given_lengths)
        for b, n in enumerate(lengths if given_lengths is not None else [S] * B):
            expected_context, expected_weights = by_hand(kind, attention, query[b], keys[b, :n])
            np.testing.assert_allclose(context.array[b], expected_context, rtol=1e-10, atol=1e-12)
            np.testing.assert_allclose(weights.array[b, :n], expected_weights, rtol=1e-10)
            assert not weights.array[b, n:].any()


@every_kind
@given(seed=seeds, B=sides, S=sides, T=sides)
def test_queries_together_are_queries_one_by_one(kind, seed, B, S, T):
    rng = np.random.default_rng(seed)
    attention, (query, keys, lengths) = made(kind, rng), example(rng, B, S, T)
    query, keys = leaves(query, keys)
    context, weights = attention(query, keys, lengths)
    assert context.shape == (B, T, K) and weights.shape == (B, T, S)
    for t in range(T):
        one_context, one_weights = attention(query[:, t], keys, lengths)
        np.testing.assert_allclose(context.array[:, t], one_context.array, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(weights.array[:, t], one_weights.array, rtol=1e-10)


@every_kind
@given(seed=seeds, B=sides, S=sides)
def test_permuted_keys_have_permuted_weights_and_the_same_context(kind, seed, B, S):
    rng = np.random.default_rng(seed)
    attention, (query, keys, _) = made(kind, rng), example(rng, B, S)
    order = rng.permutation(S)
    (context, weights), (other_context, other_weights) = (
        attention(query, x) for x in leaves(keys, keys[:, order])
    )
    np.testing.assert_allclose(other_weights.array, weights.array[:, order], rtol=1e-10)
    np.testing.assert_allclose(other_context.array, context.array, rtol=1e-10, atol=1e-12)


def pulled(attention, query, keys, lengths):
    """Context, weights and all gradients of a function of both."""
    query, keys = leaves(query, keys)
    context, weights = attention(query, keys, lengths)
    y = (context * context).sum() + (weights * weights).sum()
    gradients = tg.grad(y, [query, keys, *attention.parameters()])
    return [x.array for x in (context, weights, *gradients)]


@every_kind
@given(seed=seeds, B=sides, S=sides, many=st.booleans())
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_padding_is_never_read(kind, value, seed, B, S, many):
    """To the bit: values and gradients, those of the padding being 0."""
    rng = np.random.default_rng(seed)
    attention, (query, keys, lengths) = made(kind, rng), example(rng, B, S, 2 if many else None)
    expected = pulled(attention, query, padded(keys, lengths, 0.0), lengths)
    found = pulled(attention, query, padded(keys, lengths, value), lengths)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    weights, of_keys = found[1], found[3]
    beyond = np.arange(S) >= lengths[:, None]
    assert not weights[np.broadcast_to(beyond[:, None] if many else beyond, weights.shape)].any()
    assert not of_keys[beyond].any()


@every_kind
@pytest.mark.parametrize("T", [None, 2])
@pytest.mark.parametrize("with_lengths", [True, False])
def test_gradients_to_second_order(kind, T, with_lengths):
    rng = np.random.default_rng(5)
    attention, (query, keys, lengths) = made(kind, rng), example(rng, 2, 3, T)
    named = attention.named_parameters()

    def called(query, keys, *weights):
        for (name, _), w in zip(named, weights, strict=True):
            setattr(attention, name, w)
        return attention(query, keys, lengths if with_lengths else None)

    tg.gradcheck(called, [query, keys, *[p.array for _, p in named]], order=2)


@every_kind
def test_a_memory_follows_the_hypotheses_of_a_beam_search(kind):
    """Decoding a batch is decoding each alone, though the rows of the memory move about."""
    rng = np.random.default_rng(1)
    attention, (query, keys, lengths) = made(kind, rng), example(rng, 3, 5)
    table, V = rng.normal(size=(6, Q)), rng.normal(size=(K, 6))

    def step(tokens, state):
        q, memory = state
        q = np.tanh(q + table[tokens])
        context, _ = attention.step(q, memory)
        return tg.log_softmax(context @ V), (q, memory)

    def decoded(b):
        state = query[b], attention.memory(keys[b], lengths[b])
        return tg.decode.beam_search(step, state, np.zeros(len(b), int), beam=3, steps=4, end=5)

    together, alone = decoded(np.arange(3)), [decoded(np.array([b]))[0] for b in range(3)]
    assert [[h.tokens for h in hs] for hs in together] == [[h.tokens for h in hs] for hs in alone]


@every_kind
def test_what_does_not_fit_is_refused(kind):
    attention, (query, keys, lengths) = KINDS[kind](), example(np.random.default_rng(0), 2, 4)
    refused = [
        (query[:, :2], keys, None, "query is float64 (2, 2)"),
        (query[:1], keys, None, "one row for each row of the keys"),
        (query[0], keys, None, "query is"),
        (query, keys[0], None, "batch_first"),
        (query, keys[..., :2], None, "key_size=3"),
        (query, keys[:, :0], None, "keys is"),
        (query, keys, lengths[:1], "one length for each source"),
        (query, keys, np.ones((2, 4), bool), "mask.sum(1)"),
        (query, keys, [0, 2], "lengths[0] is int 0"),
        (query, keys, [2, 5], "1 <= length <= steps=4"),
    ]
    for *arguments, message in refused:
        with pytest.raises(tg.ShapeError) as caught:
            attention(*arguments)
        assert message in str(caught.value) and "hint" in str(caught.value)
    with pytest.raises(tg.DtypeError):
        attention(query, keys, [1.0, 2.0])

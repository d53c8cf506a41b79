"""Translation: the pairs, the pieces, the model, BLEU by length, the demo, its exercise."""

import collections
import itertools
import json
import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg
from demos import _kit as kit
from demos import _parallel as parallel
from demos import translation as demo

pytest.importorskip("sacrebleu")
pytest.importorskip("babel")

SENTENCES = ["a man eats .", "two dogs run .", "the man has two dogs", "dogs eat"]


def run(tmp_path, *flags):
    return demo.main(["--quick", "--quiet", "--out", str(tmp_path), *map(str, flags)])


# ---- the pairs ----


def folder(tmp_path, source, target, part="train"):
    """A folder with the two files of a part, and those of the others."""
    for name in ("train", "val", "test"):
        for language, text in {"en": source, "de": target}.items():
            text = text if name == part else "\n".join(SENTENCES)
            data = text if isinstance(text, bytes) else text.encode()
            (tmp_path / f"{name}.tok.{language}").write_bytes(data)
    return tmp_path


words = st.lists(st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1), min_size=1)


@given(st.lists(st.tuples(words, words), min_size=1, max_size=4), st.sampled_from(["\n", "\r\n"]))
def test_what_is_written_is_read(tmp_path_factory, pairs, end):
    texts = ["".join("  ".join(pair[k]) + " " + end for pair in pairs) for k in (0, 1)]
    path = folder(tmp_path_factory.mktemp("data"), *texts)
    assert parallel.read_pairs(path, "train", ("en", "de")) == pairs


@pytest.mark.parametrize(
    ("source", "target", "says"),
    [
        ("a\nb\n", "c\n", "2 lines and"),
        ("", "c\n", "train.tok.en is empty"),
        ("a\n\nb\n", "c\nd\ne\n", "line 2: 0 words"),
        ("a\n", "\0c\n", "train.tok.de, line 1: byte 0x00 is no UTF-8"),
        ("a\n", b"c\n\xff\n", "train.tok.de, line 2: byte 0xff is no UTF-8 text"),
        ("a\n" + "a " * 1000 + "\n", "c\nd\n", "line 2: 1000 words; expected: 1 to 250"),
        ("a\x85b\n", "c\x0cd\u2028e\nf\n", "1 lines and"),  # none of the three ends a line
    ],
)
def test_wrong_pairs_get_one_line(source, target, says, tmp_path, capsys):
    path = folder(tmp_path, source, target)
    assert run(tmp_path / "out", "--data", path) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and says in errors[0] and str(path) in errors[0]


def test_files_that_are_missing_or_several_are_named(tmp_path, capsys):
    path = folder(tmp_path, "a", "b")
    (path / "test2.en").write_text("a")
    assert run(tmp_path / "out", "--data", path) == 1
    assert "files 'test.tok.en, test2.en'; expected: one file test*.en" in capsys.readouterr().err
    assert run(tmp_path / "out", "--data", path, "--test", "test.", "--languages", "en", "fr") == 1
    assert "files 'none'; expected: one file train*.fr" in capsys.readouterr().err


def test_cldr_says_the_same_in_both_languages_and_nothing_twice():
    pairs = parallel.cldr_pairs(300, 3, seed=1)
    assert pairs == parallel.cldr_pairs(300, 3, seed=1) != parallel.cldr_pairs(300, 3, seed=2)
    assert len({tuple(source) for source, _ in pairs}) == 300
    for source, target in pairs:
        numbers = [sorted(w for w in side if w.isdigit()) for side in (source, target)]
        assert numbers[0] == numbers[1]
    said = {" ".join(source): " ".join(target) for source, target in pairs}
    assert any("vor" in t.split() for s, t in said.items() if s.endswith("ago"))


@pytest.mark.parametrize("part", ["/tmp", "**", "t", "val.t*"])
def test_the_name_of_a_part_is_no_pattern(part, tmp_path, capsys):
    path = folder(tmp_path, "a b\n", "b c\n")
    assert run(tmp_path / "out", "--data", path, "--test", part) == 1
    got = "test.tok.en, train.tok.en" if part == "t" else "none"
    assert f"files '{got}'; expected: one file {part}*.en;" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["babel", "sacrebleu.metrics"])
def test_a_missing_package_is_named(name, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    demo.metric.cache_clear()
    assert run(tmp_path) == 1
    assert "pip install 'tinygrad_rnn[demos]'" in capsys.readouterr().err


# ---- words and ids ----

SPECIALS = st.sampled_from([*parallel.SPECIAL[2:], "<end", "<s>", "</s>", "<unk>", "<pad>"])


@given(st.lists(st.lists(st.sampled_from("abc") | SPECIALS, min_size=1), min_size=2, max_size=6))
def test_words_that_occur_twice_come_back_and_others_are_unknown(sentences):
    language = parallel.Language(sentences)
    count = collections.Counter(word for sentence in sentences for word in sentence)
    for sentence in sentences:
        ids = language.encode(sentence)
        assert not {parallel.PADDING, parallel.END} & set(ids)
        kept = [word if count[word] > 1 else kit.UNKNOWN for word in sentence]
        assert language.words(ids) == kept


@settings(max_examples=20)
@given(st.lists(st.text("ab<>", min_size=1, max_size=8), min_size=1, max_size=6))
def test_pieces_make_the_words_again(sentence):
    pytest.importorskip("sentencepiece")
    known = ["".join(letters) for n in (1, 2, 3) for letters in itertools.product("ab<>", repeat=n)]
    language = parallel.Language([known, known, ["<s>", "</s>", "<unk>"]], pieces=20)
    ids = language.encode(sentence)
    assert language.words(ids) == sentence
    assert len(language.pieces(ids)) >= len(sentence)


def test_pieces_are_frequent_parts_of_words(tmp_path, capsys):
    pytest.importorskip("sentencepiece")
    sentences = [["lowest"], ["newest"], ["widest"], ["fastest", "est"]] * 5
    language = parallel.Language(sentences, pieces=20)
    assert "est" in language.cut(["oldest"])
    path = folder(tmp_path, "a b", "b c")
    for too_many in (9999, 10**6):
        assert run(tmp_path / "out", "--data", path, "--pieces", too_many) == 1
        assert f"no {too_many} pieces" in capsys.readouterr().err


# ---- the model ----

V = 7
ids = st.lists(st.integers(2, V - 1), min_size=1, max_size=5)
PAIRS = st.lists(st.tuples(ids, ids), min_size=1, max_size=4)


def translator(context, seed=0, dropout=0.0):
    tg.manual_seed(seed)
    return demo.Translator(V, V, 3, 4, demo.CONTEXTS[context](4), dropout)


@pytest.mark.parametrize("context", demo.CONTEXTS)
@given(pairs=PAIRS)
def test_teacher_forcing_in_one_call_is_the_step_function_for_each_pair_alone(context, pairs):
    model = translator(context)
    log_p, targets = demo.log_probs(model, pairs)
    assert targets.tolist() == [w for _, target in pairs for w in [*target, demo.END]]
    expected = []
    for source, target in pairs:
        state = model.encode(np.array([source]), np.array([len(source)]))
        for word in [demo.END, *target]:
            row, state = model.step(np.array([word]), state)
            expected.append(row.numpy()[0])
    np.testing.assert_allclose(log_p.numpy(), expected, atol=1e-5)


@given(pairs=PAIRS)
def test_perplexity_is_that_of_all_places_together(pairs):
    model = translator("multiplicative")
    log_p, targets = demo.log_probs(model, pairs)
    nats = -log_p.numpy()[np.arange(len(targets)), targets]
    assert demo.perplexity(model, pairs) == pytest.approx(np.exp(nats.mean()), rel=1e-4)


def test_only_the_weights_of_the_source_are_weighed():
    model = translator("additive")
    table = demo.weights_of(model, [2, 3, 4], [5, 6])
    assert table.shape == (3, 3)
    np.testing.assert_allclose(table.sum(axis=1), 1.0, rtol=1e-5)


def test_a_smoothed_loss_is_the_mean_over_smoothed_targets():
    rng = np.random.default_rng(0)
    log_p = np.log(rng.dirichlet(np.ones(5), size=3))
    targets = np.array([1, 4, 0])
    spread = np.full((3, 5), 0.1 / 5)
    spread[np.arange(3), targets] += 0.9
    found = demo.smoothed(tg.tensor(log_p), targets, 0.1).item()
    assert found == pytest.approx(-(spread * log_p).sum(axis=1).mean())


@pytest.mark.parametrize("context", demo.CONTEXTS)
def test_the_model_learns_to_turn_sequences_round(context):
    rng = np.random.default_rng(0)
    sources = [rng.integers(3, V, rng.integers(1, 5)).tolist() for _ in range(60)]
    pairs = [(s, s[::-1]) for s in sources]
    tg.manual_seed(0)
    model = demo.Translator(V, V, 16, 32, demo.CONTEXTS[context](32), 0.0)
    optimizer = tg.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(120):
        optimizer.zero_grad()
        demo.smoothed(*demo.log_probs(model, pairs), 0.05).backward()
        tg.optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    written = demo.translations(model, pairs, beam=2)
    assert written[:9] == [demo.translations(model, [pair], beam=2)[0] for pair in pairs[:9]]
    right = [w == target for w, (_, target) in zip(written, pairs, strict=True)]
    assert np.mean(right) > 0.9


def test_the_rate_goes_up_and_then_down_to_nothing():
    rates = [demo.rate(share) for share in np.linspace(0, 1, 101)]
    assert 0 < rates[0] < rates[1] and max(rates) > 0.9 and rates[-1] == 0
    assert rates[10:] == sorted(rates[10:], reverse=True)


# ---- BLEU by length ----


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40))
def test_bands_hold_every_place_once(lengths):
    bands = demo.bands_of(np.array(lengths))
    assert sorted(np.concatenate(list(bands.values()))) == list(range(len(lengths)))
    for name, places in bands.items():
        low, high = map(int, name.split("-"))
        assert len(places) and all(low <= lengths[i] <= high for i in places)


def test_bleu_is_that_of_the_words_of_the_part_and_the_places():
    pairs = [(["x"], text.split()) for text in ("a b c d e", "f g h i j")]
    corpus = parallel.Corpus({"train": pairs * 2, "val": pairs})
    written = [corpus.encode((["x"], text.split()))[1] for text in ("a b c d e", "f g h h j")]
    assert demo.bleu_of(corpus, "val", written, [0]) == pytest.approx(100)
    precisions = [9 / 10, 6 / 8, 4 / 6, 2 / 4]
    assert demo.bleu_of(corpus, "val", written) == pytest.approx(
        100 * math.prod(precisions) ** 0.25
    )


def test_claims_compare_attention_with_the_fixed_context_and_the_beam_with_greedy_choice():
    tests, beams = {"fixed": [50, 10, 25], "additive": [60, 50, 55]}, {"fixed": {1: 20, 2: 21}}
    good, bad = demo.claims(tests, beams), tests | {"additive": [60, 10, 20]}
    assert len(good) == 3 and all(good.values())
    assert not any(demo.claims(bad, {"fixed": {1: 20, 2: 19}}).values())
    assert demo.claims({"additive": [60, 50, 55]}, {"additive": {1: 50}}) == {}


# ---- the run ----


def test_a_quick_run_tells_bleu_by_length_and_draws_attention(tmp_path, capsys):
    assert run(tmp_path) == 0
    out = capsys.readouterr().out
    assert "tok:none" in out and "test BLEU, by words of the source" in out
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {line["context"] for line in lines if "test" in line} == set(demo.CONTEXTS)
    for name in ("attention_additive", "attention_multiplicative", "bleu_by_length"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    for context in demo.CONTEXTS:
        assert len((tmp_path / f"{context}.txt").read_text().splitlines()) == 25
        assert (tmp_path / f"{context}.npz").exists()


def test_parallel_text_is_read_and_a_finished_run_is_not_trained_again(
    tmp_path, capsys, monkeypatch
):
    text = "\n".join(SENTENCES * 3)
    flags = ["--data", folder(tmp_path, text, text), "--context", "additive", "--no-plot"]
    assert run(tmp_path / "out", *flags) == 0
    first = capsys.readouterr().out
    before = tg.load(tmp_path / "out" / "additive.npz")
    with monkeypatch.context() as m:
        m.setattr(demo, "smoothed", None)  # without which no step of training can be taken
        assert run(tmp_path / "out", *flags, "--resume") == 0
    assert capsys.readouterr().out == first
    after = tg.load(tmp_path / "out" / "additive.npz")
    assert all(np.array_equal(after[name], before[name]) for name in before)
    assert run(tmp_path / "more", *flags, "--init-from", tmp_path / "out" / "additive.npz") == 0


def test_the_test_pairs_are_translated_once_when_all_is_chosen(tmp_path, monkeypatch):
    """The epoch, by greedy choice, and the width of the beam are chosen on four other pairs."""
    path, asked, translations = folder(tmp_path, "a b", "b c"), [], demo.translations
    for language in ("en", "de"):
        (path / f"test.tok.{language}").write_text("\n".join(SENTENCES[:3]))

    def counted(model, pairs, beam):
        asked.append((len(pairs), beam))
        return translations(model, pairs, beam)

    monkeypatch.setattr(demo, "translations", counted)
    assert run(tmp_path / "out", "--data", path, "--context", "fixed", "--no-plot") == 0
    assert asked[:3] == [(4, 1), (4, 1), (4, 2)] and [pairs for pairs, _ in asked[3:]] == [3]


@pytest.mark.parametrize(
    "flags",
    [
        ["--context", "none"],
        ["--dropout", "1"],
        ["--beam", "0"],
        ["--init-from", "x.npz", "--context", "fixed", "additive"],
    ],
)
def test_wrong_flags_are_refused(flags):
    with pytest.raises(SystemExit):
        demo.main(flags)


# ---- the exercise ----


def reference(written, right):
    """BLEU by counting."""
    matches, counts = np.zeros(4), np.zeros(4)
    for w, r in zip(written, right, strict=True):
        for n in range(1, 5):
            ours, theirs = (
                collections.Counter(tuple(s[i : i + n]) for i in range(len(s) - n + 1))
                for s in (w, r)
            )
            matches[n - 1] += (ours & theirs).total()
            counts[n - 1] += ours.total()
    if not matches.all():
        return 0.0
    brevity = min(1.0, math.exp(1 - sum(map(len, right)) / sum(map(len, written))))
    return 100 * brevity * math.prod(matches / counts) ** 0.25


bleu = getattr(demo, "bleu", reference)  # the learner's, once it is there

texts = st.lists(st.sampled_from("abc"), min_size=4, max_size=9)


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=5))
def test_bleu_is_sacrebleus(pairs):
    from sacrebleu.metrics import BLEU

    written, right = zip(*pairs, strict=True)
    metric = BLEU(tokenize="none", force=True, smooth_method="none")
    texts = [" ".join(w) for w in written], [[" ".join(r) for r in right]]
    assert bleu(list(written), list(right)) == pytest.approx(metric.corpus_score(*texts).score)


def test_bleu_counts_no_word_more_often_than_the_reference_has_it():
    assert bleu(["a a a a a a".split()], ["a a a a b".split()]) < 100
    assert bleu([list("abcde")], [list("abcde")]) == pytest.approx(100)
    assert bleu([list("abcd")], [list("abcde")]) == pytest.approx(100 * math.exp(1 - 5 / 4))

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mvae_jax.data import captions
from mvae_jax.data.formats.celebamask_hq import Settings

TEN = Settings().attributes
OFFICIAL = (
    "5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair "
    "Blond_Hair Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup "
    "High_Cheekbones Male Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose "
    "Receding_Hairline Rosy_Cheeks Sideburns Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat "
    "Wearing_Lipstick Wearing_Necklace Wearing_Necktie Young female"
)
ALL = tuple(OFFICIAL.lower().split(" "))


def vector(names: tuple[str, ...], *present: str) -> list[float]:
    return [float(name in present) for name in names]


def understood(sentence: str, names: tuple[str, ...] = TEN) -> set[str]:
    return {name for name, value in zip(names, captions.read(sentence, names).values, strict=True) if value}


@pytest.mark.parametrize(
    ("present", "sentence"),
    [
        ([], "a person"),
        (["male"], "a man"),
        (["female", "young"], "a young woman"),
        (["male", "female"], "a man and woman"),
        (
            ["young", "female", "smiling", "eyeglasses", "blond_hair"],
            "a young woman who is smiling and wearing eyeglasses with blond hair",
        ),
        (["bald", "male", "mustache"], "a bald man with a mustache"),
        (["female", "wearing_lipstick", "eyeglasses"], "a woman who is wearing eyeglasses and lipstick"),
        (["black_hair", "blond_hair", "mustache"], "a person with black hair, blond hair and a mustache"),
    ],
)
def test_sentences_of_the_ten_attributes(present, sentence):
    assert captions.write(vector(TEN, *present), TEN) == sentence


def test_sentences_of_other_attributes():
    names = ("no_beard", "attractive", "mouth_slightly_open", "male", "wearing_hat", "smiling")
    assert captions.write(np.ones(6), names) == (
        "an attractive man who is smiling and wearing a hat with a slightly open mouth and no beard"
    )


def test_read_inverts_write_for_every_vector_of_the_ten():
    sentences = set()
    for bits in itertools.product((0.0, 1.0), repeat=10):
        sentence = captions.write(bits, TEN)
        sentences.add(sentence)
        read = captions.read(sentence, TEN)
        assert (read.values.dtype, read.said.dtype) == (np.float32, bool)
        assert read.values.tolist() == list(bits), sentence
        assert read.said.tolist() == captions.said([bits], TEN)[0].tolist(), sentence
    assert len(sentences) == 2**10


def test_read_inverts_write_for_any_list_of_attributes():
    rng = np.random.default_rng(0)
    for _ in range(1000):
        names = tuple(rng.permutation(ALL)[: rng.integers(1, len(ALL) + 1)].tolist())
        bits = rng.random(len(names)) < rng.random()
        sentence = captions.write(bits, names)
        read = captions.read(sentence, names)
        assert (read.values == bits).all(), sentence
        assert (read.said == captions.said(bits[None], names)[0]).all(), sentence
        assert not read.values[~read.said].any()


@pytest.mark.parametrize(
    ("sentence", "yes", "no"),
    [
        ("a person", [], []),
        ("a face", [], []),
        ("smiling", ["smiling"], []),
        ("without glasses", [], ["eyeglasses"]),
        ("not smiling, neither bald nor young", [], ["smiling", "bald", "young"]),
        ("an old person", [], ["young"]),
        ("a woman", ["female"], ["male"]),
        ("a boy with glasses", ["male", "eyeglasses"], ["female"]),
        ("a man and woman", ["male", "female"], []),
        ("woman, man", ["male", "female"], []),
        ("not a man", [], ["male"]),
        ("neither a man nor a woman", [], ["male", "female"]),
        ("a woman but no lipstick", ["female"], ["male", "wearing_lipstick"]),
    ],
)
def test_a_caption_says_what_it_says_and_leaves_the_rest_open(sentence, yes, no):
    read = captions.read(sentence, TEN)
    stated = {name: bool(value) for name, value, said in zip(TEN, *read, strict=True) if said}
    assert stated == {**dict.fromkeys(yes, True), **dict.fromkeys(no, False)}


def test_phrases_one_after_the_other_say_what_each_says_alone():
    """Of random attributes, yes or no, in random order; a phrase in front never changes what another says."""
    rng = np.random.default_rng(2)
    phrases = {name: name.replace("_", " ") for name in TEN} | {"wearing_lipstick": "lipstick"}
    for _ in range(300):
        chosen = {name: bool(rng.integers(2)) for name in rng.permutation(TEN)[: rng.integers(1, 6)]}
        sentence = ". ".join(text if chosen[name] else f"no {text}" for name, text in phrases.items() if name in chosen)
        read = captions.read(sentence, TEN)
        expected = dict(chosen)
        for name, other in (("male", "female"), ("female", "male")):
            if chosen.get(name):
                expected.setdefault(other, False)
        assert {name: bool(value) for name, value, said in zip(TEN, *read, strict=True) if said} == expected, sentence


def test_words_do_not_depend_on_the_order_of_the_attributes():
    names = tuple(reversed(ALL))
    assert captions.write(np.ones(41), names) == captions.write(np.ones(41), ALL)


def test_every_attribute_is_read_by_its_name():
    for name in ALL:
        assert understood(name, ALL) == {name}
        assert understood(name.replace("_", " ").upper(), ALL) == {name}


def test_no_phrase_means_two_things():
    texts = [t for p in captions._PHRASES.values() for t in (p.text, *p.synonyms, *p.opposites)]
    lexicon = captions._language(ALL).lexicon
    assert len(lexicon) == len(texts) - 1  # "no beard" is a negation, not a phrase
    assert set(captions._PHRASES) == set(ALL)
    assert not {words[0] for words in lexicon if len(words) == 1} & captions._GRAMMAR


@pytest.mark.parametrize(
    ("sentence", "present"),
    [
        ("Blonde, smiling WOMAN!", {"blond_hair", "smiling", "female"}),
        ("with glasses and the blond hair: a girl.", {"eyeglasses", "blond_hair", "female"}),
        ("portrait of an elderly gentleman with a moustache", {"male", "mustache"}),
        ("hairless guy grinning", {"bald", "male", "smiling"}),
        ("She has lipstick, spectacles and a grin", {"female", "wearing_lipstick", "eyeglasses", "smiling"}),
        ("black-haired young woman", {"black_hair", "young", "female"}),
        ("wearing_lipstick; black_hair", {"wearing_lipstick", "black_hair"}),
        ("a man and a woman", {"male", "female"}),
        ("someone smiling, smiling", {"smiling"}),
    ],
)
def test_order_case_punctuation_and_synonyms(sentence, present):
    assert understood(sentence) == present


@pytest.mark.parametrize(
    ("sentence", "present"),
    [
        ("no glasses", set()),
        ("a woman not smiling", {"female"}),
        ("a man without a mustache who is smiling", {"male", "smiling"}),
        ("isn’t smiling but wears lipstick", {"wearing_lipstick"}),
        ("a woman who does not wear glasses", {"female"}),
        ("a man, not a woman, with glasses", {"male", "eyeglasses"}),
        ("not smiling or wearing glasses", set()),
        ("neither smiling nor wearing glasses but bald", {"bald"}),
        ("no glasses, no mustache, bald", None),
        ("no glasses, no mustache but bald", {"bald"}),
        ("not smiling. Bald.", {"bald"}),
        ("not old", {"young"}),
        ("not young but smiling", {"smiling"}),
        ("a man wearing no glasses with black hair", {"male", "black_hair"}),
    ],
)
def test_negations(sentence, present):
    if present is None:
        with pytest.raises(ValueError, match="unclear whether 'no' also covers 'bald'"):
            captions.read(sentence, TEN)
    else:
        assert understood(sentence) == present


@pytest.mark.parametrize(
    ("sentence", "message"),
    [
        ("not smiling and wearing glasses", "unclear whether 'not' also covers 'glasses'"),
        ("no glasses and lipstick", "unclear whether 'no' also covers 'lipstick'"),
        ("without glasses, lipstick", "unclear whether 'without' also covers 'lipstick'"),
        ("doesn't have a mustache and wear glasses", "unclear whether \"doesn't\" also covers 'glasses'"),
        ("not a young woman", "unclear whether 'not' also covers 'woman'"),
        ("not a young person who is smiling", "unclear whether 'not' also covers 'person'"),
        ("not a woman with glasses", "unclear whether 'not' also covers 'glasses'"),
        ("not a man who is smiling", "unclear whether 'not' also covers 'smiling'"),
        ("glasses: no", "'no' is not followed by what it negates"),
        ("glasses no, lipstick", "'no' is not followed"),
        ("glasses no and lipstick", "'no' is not followed"),
        ("glasses no with lipstick", "'no' is not followed"),
        ("not without glasses", "'not' is not followed"),
        ("not a person with glasses", "'not' is not followed"),
        ("smiling or bald", "'or' leaves open"),
        ("woman -glasses", "unknown word '-'"),
        ("not smiling, smiling", "unclear whether"),
        ("smiling but not smiling", "'smiling' contradicts what came before about 'smiling'"),
        ("not young or old", "'old' contradicts"),
    ],
)
def test_unclear_negations_and_contradictions_are_reported(sentence, message):
    with pytest.raises(ValueError, match=message):
        captions.read(sentence, TEN)


@pytest.mark.parametrize(
    ("sentence", "messages"),
    [
        ("a smileing woman", ["unknown word 'smileing'", "did you mean 'smiling'"]),
        ("a tall woman with glases", ["unknown word 'tall'", "unknown word 'glases'", "'glasses'"]),
        ("red hair", ["unknown word 'red'", "'hair' is understood only within 'black hair'"]),
        ("not very young", ["unknown word 'very'"]),
        ("smiling?", [r"unknown word '\?'"]),
        ("with wavy hair", ["the model has no attribute 'wavy_hair'"]),
        ("without a hat", ["the model has no attribute 'wearing_hat'"]),
        ("a bearded purple man", ["unknown word 'purple'", "no attribute 'no_beard'"]),
        ("  ", ["it is empty", "The model knows: "]),
        (", . !", ["it is empty", "The model knows: "]),
    ],
)
def test_what_is_not_understood_is_reported(sentence, messages):
    for message in messages:
        with pytest.raises(ValueError, match=message):
            captions.read(sentence, TEN)


def test_no_word_is_dropped():
    """A sentence with one unknown word anywhere is refused."""
    words = captions.write(np.ones(10), TEN).split()
    for place in range(len(words) + 1):
        with pytest.raises(ValueError, match="unknown word 'zebra'"):
            captions.read(" ".join([*words[:place], "zebra", *words[place:]]), TEN)


@pytest.mark.parametrize(("name", "one", "zero"), [("male", "a man", "a woman"), ("female", "a woman", "a man")])
def test_one_gender_attribute(name, one, zero):
    names = (name, "young")
    assert captions.write([1, 0], names) == one
    assert captions.write([0, 0], names) == zero
    assert captions.read(one, names).values.tolist() == [1, 0]
    assert captions.read(zero, names).values.tolist() == [0, 0]
    assert captions.read(f"not {zero}", names).values.tolist() == [1, 0]
    for sentence in (one, zero, f"not {zero}"):
        assert captions.read(sentence, names).said.tolist() == [True, False]
    assert captions.read("a young person", names).said.tolist() == [False, True]
    with pytest.raises(ValueError, match="contradicts"):
        captions.read("man and woman", names)


def test_no_gender_attribute():
    assert captions.write([1], ("young",)) == "a young person"
    with pytest.raises(ValueError, match="no attribute 'male' \\('man'\\)"):
        captions.read("a young man", ("young",))


def test_beards():
    names = ("no_beard", "goatee", "wavy_hair")
    assert captions.read("a beard", names).values.tolist() == [0, 0, 0]
    for sentence in ("no beard", "beardless", "clean-shaven", "without a beard", "not bearded"):
        assert captions.read(sentence, names).values.tolist() == [1, 0, 0]
    assert captions.read("a beard", names).said.tolist() == [True, False, False]
    assert captions.read("goatee", names).said.tolist() == [False, True, False]
    assert captions.read("not clean-shaven", names).values.tolist() == [0, 0, 0]
    assert captions.read("a beard but no goatee", names).values.tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="contradicts"):
        captions.read("a bearded person with no beard", names)


@pytest.mark.parametrize("values", [[0.5] * 10, [1.0] * 9, [-1] * 10, [np.nan] * 10, [[0] * 10]])
def test_vectors_are_checked(values):
    with pytest.raises(ValueError, match=r"expected 10 values in \{0, 1\}"):
        captions.write(values, TEN)


def test_attribute_names_are_checked():
    with pytest.raises(ValueError, match="expected each name once"):
        captions.read("a man", ("male", "male"))


# Attributes of one's own


@pytest.mark.parametrize(
    ("names", "present", "sentence"),
    [
        (("red_car",), ["red_car"], "a person with red car"),
        (("red_car", "young", "male"), ["young", "male", "red_car"], "a young man with red car"),
        (
            ("zebra", "no_beard", "apple_2", "bangs", "smiling"),
            ["zebra", "no_beard", "apple_2", "bangs", "smiling"],
            "a person who is smiling with bangs, apple 2, zebra and no beard",
        ),
        (("größe", "7"), ["größe", "7"], "a person with 7 and größe"),
        (("beard",), ["beard"], "a person with beard"),  # only means the absence of `no_beard` where that is listed
        (("old", "male"), ["old", "male"], "a man with old"),
    ],
)
def test_sentences_of_own_attributes(names, present, sentence):
    assert captions.write(vector(names, *present), names) == sentence
    assert captions.read(sentence, names).values.tolist() == vector(names, *present)


def test_own_attributes_are_understood_like_others():
    names = ("red_car", "car", "male", "striped_shirt")
    assert understood("Striped shirt, red_car", names) == {"striped_shirt", "red_car"}
    assert understood("a car", names) == {"car"}
    assert understood("a man, no red car but a car", names) == {"male", "car"}
    with pytest.raises(ValueError, match=r"unknown word 'blue'.*unknown word 'cart' \(did you mean 'car'"):
        captions.read("blue cart", names)
    with pytest.raises(ValueError, match="'shirt' is understood only within 'striped shirt'"):
        captions.read("a shirt", names)
    with pytest.raises(ValueError, match="unknown word 'car'"):
        captions.read("a car", ("male",))


WORDS = ("young", "man", "boy", "bald", "black", "hair", "beard", "car")


def test_read_inverts_write_for_own_attributes():
    """Whatever names are accepted, among known ones and made of their very words."""
    rng = np.random.default_rng(1)
    accepted = refused = 0
    for _ in range(1500):
        known = rng.permutation(("young", "male", "female", "bald", "black_hair", "no_beard"))[
            : rng.integers(7)
        ].tolist()
        own = ["_".join(rng.choice(WORDS, rng.integers(1, 4))) for _ in range(rng.integers(1, 5))]
        names = tuple(dict.fromkeys([*known, *own]))
        try:
            captions.check_names(names)
        except ValueError:
            refused += 1
            continue
        accepted += 1
        for bits in (np.ones(len(names)), rng.random(len(names)) < 0.5):
            sentence = captions.write(bits, names)
            assert (captions.read(sentence, names).values == bits).all(), (sentence, names)
            assert captions.write(bits[::-1], names[::-1]) == sentence
    assert min(accepted, refused) > 300


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("",), "cannot be said in a caption: expected a name of lower-case letters and digits"),
        (("Smiling",), "'Smiling' cannot be said .* such as 'smiling'"),
        (("red car",), "'red car' cannot be said"),
        (("red-car",), "'red-car' cannot be said"),
        (("red__car",), "'red__car' cannot be said"),
        (("_red",), "'_red' cannot be said"),
        (("o'clock",), "cannot be said"),
        (("<script>alert(1)</script>",), "cannot be said"),
        (("$\\frac{$",), "cannot be said"),
        (("red\ncar",), "cannot be said"),
        (("no_hat",), "'no_hat' contains 'no', which the grammar of captions needs"),
        (("has_car",), "contains 'has'"),
        (("and",), "contains 'and'"),
        (("person",), "contains 'person'"),
        (("a",), "contains 'a'"),
        (("glasses", "eyeglasses"), "'glasses' would be read as 'glasses', as other attributes are said"),
        (("old", "young"), "'old' would be read as 'old'"),
        (("beard", "no_beard"), "'beard' would be read as 'beard'"),
        (("girl", "male"), "'girl' would be read as 'girl'"),
        (("young_man", "male", "young"), "'young_man' would be read as 'young' and 'man'"),
        (("red_car", "car", "red"), "'red_car' would be read as 'red' and 'car'"),
    ],
)
def test_names_that_cannot_be_said_or_would_be_ambiguous_are_refused(names, message):
    for refuse in (
        captions.check_names,
        lambda names: captions.read("x", names),
        lambda names: captions.write([], names),
    ):
        with pytest.raises(ValueError, match=message):
            refuse(names)


def test_a_long_name_is_refused_at_once():
    """The ways in which "x x x ... " could be put together from x_x and x_x_x are many."""
    long = "_".join(["x"] * 500)
    with pytest.raises(ValueError, match="would be read as 'x x"):
        captions.check_names(("x_x", "x_x_x", long))
    captions.check_names(("x_x", "x_x_x", f"{long}_y"))

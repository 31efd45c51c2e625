"""Attribute vectors as English sentences and back, exactly.

`write` is deterministic: the words and their order depend on the set of attributes alone. `read` undoes it, and also
understands what people type: other orders, keywords, synonyms ("blonde", "glasses", "girl"), opposites ("old" is not
young) and negations ("no glasses"). A sentence says what it mentions and leaves everything else open, which `read`
tells apart. What `read` cannot place, it reports: it never drops a word that could carry meaning, and never reads a
negation as its opposite.

Gender: where the list has both `male` and `female`, "man" and "woman" stand for one bit each, "person" for
neither and "man and woman" for both, since a vector may have any of these. Where it has one of the two, the other
word means that this bit is 0. "Boy" and "girl" state the gender alone, not `young`.

A user's attribute, such as `red_car`, is said by its name: "a person with red car". Names that would make a
sentence ambiguous are refused by `check_names`.
"""

from __future__ import annotations

import collections
import dataclasses
import difflib
import enum
import functools
import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np


@dataclasses.dataclass(frozen=True)
class _Phrase:
    """Words for an attribute.

    Attributes:
        slot: its place in the sentence: "a {is} {noun} who is {doing} and wearing {wearing} with {with} and {without}".
        text: what `write` says; articles do not count in reading.
        synonyms: what else `read` understands.
        opposites: what says that the attribute is 0.
    """

    slot: str
    text: str
    synonyms: tuple[str, ...] = ()
    opposites: tuple[str, ...] = ()


# The 40 attributes of CelebA and its relatives, and `female`; the order is that of the words within a slot.
_PHRASES = {
    "male": _Phrase("noun", "man", ("male", "boy", "gentleman", "guy", "he")),
    "female": _Phrase("noun", "woman", ("female", "girl", "lady", "she")),
    "blurry": _Phrase("is", "blurry", ("blurred", "out of focus")),
    "attractive": _Phrase("is", "attractive", ("beautiful", "handsome", "good looking"), ("unattractive",)),
    "young": _Phrase("is", "young", ("youthful",), ("old", "elderly")),
    "chubby": _Phrase("is", "chubby", ("plump",)),
    "bald": _Phrase("is", "bald", ("hairless", "bald headed", "baldheaded")),
    "smiling": _Phrase("doing", "smiling", ("smile", "smiles", "grin", "grins", "grinning"), ("unsmiling",)),
    "eyeglasses": _Phrase(
        "wearing", "eyeglasses", ("glasses", "spectacles", "sunglasses", "specs", "bespectacled", "eye glasses")
    ),
    "wearing_hat": _Phrase("wearing", "a hat", ("cap", "hats")),
    "wearing_earrings": _Phrase("wearing", "earrings", ("earring", "ear rings")),
    "wearing_necklace": _Phrase("wearing", "a necklace", ("necklaces",)),
    "wearing_necktie": _Phrase("wearing", "a necktie", ("tie", "neck tie")),
    "heavy_makeup": _Phrase("wearing", "heavy makeup", ("makeup", "heavy make up", "make up")),
    "wearing_lipstick": _Phrase("wearing", "lipstick", ("lip stick",)),
    "black_hair": _Phrase("with", "black hair", ("black haired",)),
    "blond_hair": _Phrase(
        "with", "blond hair", ("blonde hair", "blond", "blonde", "blond haired", "blonde haired", "fair hair")
    ),
    "brown_hair": _Phrase("with", "brown hair", ("brown haired", "brunette", "brunet")),
    "gray_hair": _Phrase("with", "gray hair", ("grey hair", "gray haired", "grey haired")),
    "straight_hair": _Phrase("with", "straight hair", ("straight haired",)),
    "wavy_hair": _Phrase("with", "wavy hair", ("wavy", "wavy haired")),
    "bangs": _Phrase("with", "bangs", ("fringe",)),
    "receding_hairline": _Phrase("with", "a receding hairline", ("receding hair line", "receding hair")),
    "bushy_eyebrows": _Phrase("with", "bushy eyebrows", ("thick eyebrows", "bushy brows", "bushy browed")),
    "arched_eyebrows": _Phrase("with", "arched eyebrows", ("arched brows",)),
    "narrow_eyes": _Phrase("with", "narrow eyes", ("narrow eyed",)),
    "bags_under_eyes": _Phrase("with", "bags under the eyes", ("eye bags", "baggy eyes")),
    "big_nose": _Phrase("with", "a big nose", ("large nose", "big nosed")),
    "pointy_nose": _Phrase("with", "a pointy nose", ("pointed nose", "pointy nosed")),
    "high_cheekbones": _Phrase("with", "high cheekbones", ("high cheek bones",)),
    "rosy_cheeks": _Phrase("with", "rosy cheeks", ("rosy cheeked",)),
    "big_lips": _Phrase("with", "big lips", ("full lips", "large lips")),
    "mouth_slightly_open": _Phrase(
        "with", "a slightly open mouth", ("mouth slightly open", "open mouth", "mouth open"), ("closed mouth",)
    ),
    "oval_face": _Phrase("with", "an oval face", ("oval faced",)),
    "pale_skin": _Phrase("with", "pale skin", ("pale skinned", "pale face", "pale faced")),
    "double_chin": _Phrase("with", "a double chin", ("double chinned",)),
    "5_o_clock_shadow": _Phrase(
        "with", "a five o'clock shadow", ("5 o'clock shadow", "5 o clock shadow", "five o clock shadow", "stubble")
    ),
    "goatee": _Phrase("with", "a goatee", ("goateed",)),
    "mustache": _Phrase("with", "a mustache", ("moustache", "mustached", "moustached", "mustachioed")),
    "sideburns": _Phrase("with", "sideburns", ("side burns",)),
    # In the last slot: what followed "no beard" would be in doubt, see `_Scope`.
    "no_beard": _Phrase("without", "no beard", ("beardless", "clean shaven", "cleanshaven"), ("beard", "bearded")),
}

_OTHER_GENDER = {"male": "female", "female": "male"}
_ARTICLES = frozenset({"a", "an", "the"})
_NEUTRAL = frozenset({"person", "someone", "somebody", "human", "individual", "face", "adult"})
_NEGATORS = frozenset(
    {"no", "not", "without", "never", "neither", "nor", "lacks", "lacking", "isn't", "isnt", "aren't", "arent"}
    | {"doesn't", "doesnt", "don't", "dont", "hasn't", "hasnt", "haven't", "havent"}
)
_PASSED = frozenset({"be", "have", "having", "wear", "wearing", "with"})  # as in "does not wear glasses"
_RESTARTS = frozenset({"but", "with", "who", "that", "is", "has", "wears"})  # begin a part that is not negated
_FILLERS = frozenset({"and", "both", "also", "are", "do", "does", "of", "this", "it"}) | {
    *("photo", "photograph", "picture", "image", "portrait")
}
_PAUSES = frozenset(",–—")
_STOPS = frozenset(".;:!")
_EMPTY = "it is empty"
_GRAMMAR = _NEUTRAL | _NEGATORS | _PASSED | _RESTARTS | _FILLERS | _PAUSES | _STOPS | {"or"}


def _words(text: str) -> list[str]:
    """Splits into lower-case words and punctuation marks; hyphens and underscores part words, articles go."""
    text = re.sub(r"(?<=\w)[-_](?=\w)", " ", text.lower().replace("’", "'"))
    tokens = re.findall(r"[^\W_]+(?:'[^\W_]+)*|[^\w\s'\"“”()\[\]]|_", text)
    return [token for token in tokens if token not in _ARTICLES]


_Meanings = dict[tuple[str, ...], tuple[str, bool]]


def _meanings(name: str, phrase: _Phrase) -> _Meanings:
    said = {True: (phrase.text, *phrase.synonyms), False: phrase.opposites}
    meanings = {tuple(_words(text)): (name, value) for value, texts in said.items() for text in texts}
    # "No beard" is read as any negation is, lest "no glasses, no beard" be two rules.
    return {words: meaning for words, meaning in meanings.items() if words[0] not in _NEGATORS}


class _Language(NamedTuple):
    """Phrases for a list of attributes, and the words in them.

    Attributes:
        phrases: of the known attributes and then of the list's others; the order is that of the words within a slot.
        lexicon: words -> attribute and value; those of the list hide those of attributes that it does not have.
        longest: most words of a phrase.
        vocabulary: all words.
    """

    phrases: dict[str, _Phrase]
    lexicon: _Meanings
    longest: int
    vocabulary: list[str]


@functools.lru_cache(maxsize=16)
def _language(attributes: tuple[str, ...]) -> _Language:
    if len(set(attributes)) < len(attributes):
        raise ValueError(f"attributes are {attributes}, expected each name once.")
    new = {name: _phrase_of(name) for name in sorted(set(attributes) - _PHRASES.keys())}
    phrases = {**_PHRASES, **new}
    # Where one gender is listed, both are said.
    said = {*attributes, *(other for name, other in _OTHER_GENDER.items() if name in attributes)}
    spoken = {name: _meanings(name, phrases[name]) for name in said}
    times = collections.Counter(words for meanings in spoken.values() for words in meanings)
    for name in new:
        others = times.keys() - {words for words in spoken[name] if times[words] == 1}
        parts = _composition(tuple(_words(name)), others)
        if parts:
            raise ValueError(
                f"The attribute {name!r} would be read as {' and '.join(map(repr, parts))}, as other attributes are "
                "said: give it another name."
            )
    lexicon = {words: meaning for name in phrases for words, meaning in _meanings(name, phrases[name]).items()}
    vocabulary = sorted(_GRAMMAR | {word for words in lexicon for word in words})
    return _Language(phrases, lexicon, max(map(len, lexicon)), vocabulary)


def _phrase_of(name: str) -> _Phrase:
    """The words of an attribute that is not known: those of its name."""
    words = name.split("_")
    if grammar := sorted(set(words) & (_GRAMMAR | _ARTICLES)):
        raise ValueError(
            f"The name of the attribute {name!r} contains {' and '.join(map(repr, grammar))}, which the grammar of "
            "captions needs: give it a name without, such as 'striped_shirt'."
        )
    if words != _words(name) or not all(word.isalnum() for word in words):
        close = difflib.get_close_matches("_".join(_words(name)), _PHRASES)
        raise ValueError(
            f"The attribute {name!r} cannot be said in a caption: expected a name of lower-case letters and digits, "
            f"words joined by single underscores, such as {' or '.join(map(repr, close or ['red_car']))}."
        )
    return _Phrase("with", " ".join(words))


def _composition(words: tuple[str, ...], phrases: Collection[tuple[str, ...]]) -> list[str]:
    """Phrases that add up to the words, one after the other; empty if none do."""
    ways: dict[int, list[str]] = {0: []}  # how many of the words -> phrases that add up to them
    for end in range(1, len(words) + 1):
        start = next((start for start in ways if words[start:end] in phrases), None)
        if start is not None:
            ways[end] = [*ways[start], " ".join(words[start:end])]
    return ways.get(len(words), [])


def check_names(attributes: Sequence[str]) -> None:
    """Raises ValueError unless captions can be written and read back for a list of attributes.

    Args:
        attributes: any of the 40 attributes of CelebA in snake case, `female`, and a user's names: words of
            lower-case letters and digits joined by underscores, that neither belong to the grammar of captions nor
            add up to phrases of other attributes in the list.
    """
    _language(tuple(attributes))


def write(vector: np.ndarray | Sequence[float], attributes: Sequence[str]) -> str:
    """Writes an attribute vector as a sentence.

    Args:
        vector: values in {0, 1}, [A].
        attributes: the A names, see `check_names`.

    Returns:
        A sentence such as "a young woman who is smiling and wearing eyeglasses with blond hair".

    Raises:
        ValueError: a value is neither 0 nor 1, the lengths differ, or an attribute cannot be said.
    """
    phrases = _language(tuple(attributes)).phrases
    values = np.asarray(vector)
    if values.shape != (len(attributes),) or not np.isin(values, (0, 1)).all():
        raise ValueError(f"vector is {values.tolist()}, expected {len(attributes)} values in {{0, 1}}, no logits.")
    has = {name for name, value in zip(attributes, values, strict=True) if value}
    for name, other in _OTHER_GENDER.items():
        if name in attributes and other not in attributes and name not in has:
            has.add(other)

    def said(slot: str) -> list[str]:
        return [phrase.text for name, phrase in phrases.items() if name in has and phrase.slot == slot]

    words = [*said("is"), " and ".join(said("noun")) or "person"]
    sentence = f"{'an' if words[0][0] in 'aeiou' else 'a'} {' '.join(words)}"
    wearing = [f"wearing {_enumerate(said('wearing'))}"] if said("wearing") else []
    if doing := said("doing") + wearing:
        sentence += f" who is {_enumerate(doing)}"
    if features := said("with") + said("without"):
        sentence += f" with {_enumerate(features)}"
    return sentence


def _enumerate(items: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(items[:-1]), items[-1]]))


class Caption(NamedTuple):
    """Attributes that a caption states.

    Attributes:
        values: float32 [A] in {0, 1}; 0 where the caption is silent.
        said: bool [A], whether the caption says the attribute, yes or no. "Without glasses" says no, silence nothing.
    """

    values: np.ndarray
    said: np.ndarray


def read(sentence: str, attributes: Sequence[str]) -> Caption:
    """Reads a sentence, or keywords, as an attribute vector, and what of it was said: the inverse of `write`.

    A negation holds for the phrase that follows it, and on through "or" and "nor". Where it is unclear whether it
    holds for a further phrase ("no glasses and lipstick"), that is reported.

    Args:
        sentence: what a person wrote; case, punctuation, articles and order are free.
        attributes: the A names, as for `write`.

    Returns:
        The values, and which of them are said. A word for one gender says that it is not the other, unless the sentence
        says that too; "not a man" says no more than that.

    Raises:
        ValueError: lists every word that is not understood (with close ones that are), every phrase for which
            there is no attribute, unclear negations and contradictions.
    """
    reader = _follow(_words(sentence), _language(tuple(attributes)))
    problems = list(reader.problems)
    unknown = any(problem.startswith(("unknown word", _EMPTY)) for problem in problems)
    stated: dict[str, bool] = {}
    for name, value, phrase in reader.statements:
        other = _OTHER_GENDER.get(name, name)
        if name not in attributes and other in attributes:
            name, value = other, not value
        if name not in attributes:
            problems.append(f"the model has no attribute {name!r} ({phrase!r})")
            unknown = True
        elif stated.setdefault(name, value) != value:
            problems.append(f"{phrase!r} contradicts what came before about {name!r}")
    if problems:
        known = f" The model knows: {', '.join(words(attributes))}." if unknown else ""
        raise ValueError(f"Cannot read {sentence!r}: {'; '.join(dict.fromkeys(problems))}.{known}")
    for name, other in _OTHER_GENDER.items():
        if other in attributes and stated.get(name):
            stated.setdefault(other, False)
    values = np.array([stated.get(name, False) for name in attributes], np.float32)
    return Caption(values, np.array([name in stated for name in attributes]))


def said(vectors: np.ndarray | Sequence[Sequence[float]], attributes: Sequence[str]) -> np.ndarray:
    """Attributes that the captions of vectors say: those that are 1, and the gender.

    It is what `read` finds in the sentences of `write`, without the sentences.

    Args:
        vectors: values in {0, 1}, [N, A].
        attributes: the A names, as for `write`.

    Returns:
        bool [N, A].
    """
    result = np.asarray(vectors) > 0
    for name, other in _OTHER_GENDER.items():
        if name in attributes:
            column = list(attributes).index(name)
            # Of one listed gender alone, the other's word says that it is not this one.
            result[:, column] |= result[:, list(attributes).index(other)] if other in attributes else True
    return result


def words(attributes: Sequence[str]) -> list[str]:
    """Phrases for all attributes of a list, as `write` says them: "man", "woman", "young", "blond hair".

    Args:
        attributes: the A names, see `check_names`.
    """
    said = {*attributes, *(other for name, other in _OTHER_GENDER.items() if name in attributes)}
    phrases = _language(tuple(attributes)).phrases
    return [re.sub("^(a|an) ", "", phrase.text) for name, phrase in phrases.items() if name in said]


class _Scope(enum.Enum):
    """Reach of the last negation at a place in the sentence."""

    NOTHING = enum.auto()
    NEXT = enum.auto()  # after "not": the phrase to come
    DOUBT = enum.auto()  # after "not smiling": whether a phrase that follows without "or" or "but" is unclear
    NOUN = enum.auto()  # after "not a woman": nor is it clear for "with glasses" or "who is smiling"


class _Statement(NamedTuple):
    attribute: str
    value: bool
    phrase: str


@dataclasses.dataclass
class _Reader:
    """Collects what a sentence states, and what is wrong with it, one phrase or word after the other."""

    language: _Language
    statements: list[_Statement] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)
    scope: _Scope = _Scope.NOTHING
    negator: str = ""

    def phrase(self, text: str, attribute: str, value: bool) -> None:
        """Takes a phrase that states an attribute."""
        self._check_doubt(text)
        negated = self.scope is _Scope.NEXT
        self.statements.append(_Statement(attribute, value != negated, text))
        if negated:
            self.scope = _Scope.NOUN if attribute in _OTHER_GENDER else _Scope.DOUBT

    def word(self, word: str) -> None:
        """Takes a word, or a punctuation mark, that states nothing alone."""
        if word not in _GRAMMAR:
            self.problems.append(_unknown(word, self.language))
            self.scope = _Scope.NOTHING
            return
        if word not in _PASSED or self.negator == "no":  # "glasses no with lipstick" negates the glasses
            self.check_complete()
        if word in _NEGATORS:
            self.scope, self.negator = _Scope.NEXT, word
        elif word == "or":
            if self.scope is _Scope.NOTHING:
                self.problems.append("'or' leaves open which is meant: name one")
            else:
                self.scope = _Scope.NEXT
        elif word in _NEUTRAL:
            self._check_doubt(word)
        elif word in _STOPS or word == "but":
            self.scope = _Scope.NOTHING
        elif word in _PAUSES and self.scope is _Scope.NOUN:
            self.scope = _Scope.DOUBT
        elif word in _RESTARTS and self.scope is _Scope.DOUBT:
            self.scope = _Scope.NOTHING

    def check_complete(self) -> None:
        """Reports a negation that has found nothing to negate."""
        if self.scope is _Scope.NEXT:
            self.problems.append(f"{self.negator!r} is not followed by what it negates")
            self.scope = _Scope.NOTHING

    def _check_doubt(self, text: str) -> None:
        if self.scope in (_Scope.DOUBT, _Scope.NOUN):
            self.problems.append(
                f"it is unclear whether {self.negator!r} also covers {text!r}: put 'or' between if it does, 'but' "
                "if it does not"
            )
            self.scope = _Scope.NOTHING


def _follow(words: list[str], language: _Language) -> _Reader:
    reader = _Reader(language, problems=[] if set(words) - _PAUSES - _STOPS else [_EMPTY])
    while words:
        length = next((n for n in range(language.longest, 0, -1) if tuple(words[:n]) in language.lexicon), 0)
        if length:
            reader.phrase(" ".join(words[:length]), *language.lexicon[tuple(words[:length])])
        else:
            reader.word(words[0])
        words = words[max(length, 1) :]
    reader.check_complete()
    return reader


def _unknown(word: str, language: _Language) -> str:
    within = [" ".join(words) for words in language.lexicon if word in words]
    if within:
        return f"{word!r} is understood only within {', '.join(map(repr, within))}"
    close = difflib.get_close_matches(word, language.vocabulary, cutoff=0.7)
    return f"unknown word {word!r}" + (f" (did you mean {' or '.join(map(repr, close))}?)" if close else "")

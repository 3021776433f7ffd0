"""Trains the demo's tokenizer: a unigram vocabulary with T5's conventions.

Ids: 0 pad (also the decoder's start), 1 end, 2 unknown, the last 100 the sentinels with
<extra_id_0> last, as in T5. White space of any kind is one space, accents and typographic quotes
are folded (a vocabulary this small has no room for them), digits stand alone so that a year can
be copied digit by digit.
"""

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from demo.recipe.corpus import SOURCES, read_corpus, text_folder

VOCABULARY_SIZE = 8192
NUM_SENTINELS = 100
SEED = 0
# Share of each source's paragraphs shown to the trainer: the modern register counts more.
SHARES = {"classic_books": 0.12, "openstax_ccby": 1.0, "cia_factbook": 1.0, "masc": 1.0}
SHARES |= {"movie_reviews": 0.8, "us_speeches": 0.5}
# The prompt frame is no prose; showing it makes its words and the option bar single pieces.
FRAME = "Task Instruction: Choose one of the options.\nOptions: a | b | c\nText: Title: a\nAnswer:"
FRAME_REPEATS = 3000
OPTION_BAR, OPTION_BAR_SCORE = "\u2581|", -5.0


def passages() -> Iterator[str]:
    """Paragraphs for the trainer, then the prompt frame."""
    chooser = random.Random(SEED)
    corpus = read_corpus(text_folder(), held_out=False)
    for source in SOURCES:
        for document in corpus[source]:
            for paragraph in document.paragraphs:
                if chooser.random() < SHARES[source]:
                    yield paragraph
    yield from [FRAME] * FRAME_REPEATS


def train() -> Tokenizer:
    """A tokenizer of VOCABULARY_SIZE ids that appends the end id."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKD(),
            normalizers.StripAccents(),
            normalizers.Replace(Regex("[\u2018\u2019]"), "'"),
            normalizers.Replace(Regex("[\u201c\u201d]"), '"'),
            normalizers.Replace(Regex("[\u2013\u2014]"), "-"),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(prepend_scheme="always"),
            pre_tokenizers.Digits(individual_digits=True),
        ]
    )
    trainer = trainers.UnigramTrainer(
        vocab_size=VOCABULARY_SIZE - NUM_SENTINELS,
        special_tokens=["<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        max_piece_length=16,
    )
    tokenizer.train_from_iterator(passages(), trainer)
    return with_sentinels(tokenizer)


def with_sentinels(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokenizer with sentinels as its last ids and the end id appended to every text."""
    state = json.loads(tokenizer.to_str())
    pieces = state["model"]["vocab"]
    pieces = pieces[: VOCABULARY_SIZE - NUM_SENTINELS]
    assert len(pieces) == VOCABULARY_SIZE - NUM_SENTINELS
    rarest = max(i for i, (piece, _) in enumerate(pieces) if len(piece) > 1)
    pieces[rarest] = [OPTION_BAR, OPTION_BAR_SCORE]  # one id for what every option list repeats
    sentinels = [f"<extra_id_{i}>" for i in reversed(range(NUM_SENTINELS))]
    state["model"]["vocab"] = pieces + [[sentinel, 0.0] for sentinel in sentinels]
    template = dict(state["added_tokens"][0])
    for offset, sentinel in enumerate(sentinels):
        state["added_tokens"].append({**template, "id": len(pieces) + offset, "content": sentinel})
    end = {"SpecialToken": {"id": "</s>", "type_id": 0}}
    state["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}, end],
        "pair": [
            {"Sequence": {"id": "A", "type_id": 0}},
            end,
            {"Sequence": {"id": "B", "type_id": 0}},
            end,
        ],
        "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
    }
    finished = Tokenizer.from_str(json.dumps(state))
    finished.decoder = decoders.Metaspace(prepend_scheme="always")
    return finished


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="folder for tokenizer.json and its settings")
    folder: Path = parser.parse_args().output
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=train(),
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=[f"<extra_id_{i}>" for i in range(NUM_SENTINELS)],
        model_max_length=512,
    )
    tokenizer.save_pretrained(str(folder))


if __name__ == "__main__":
    main()

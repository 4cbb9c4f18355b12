from __future__ import annotations

import copy
import re

import pytest
from PIL import Image
from tokenizers.processors import TemplateProcessing

from minicpmv.errors import CheckpointError, UsageError
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.processing.text.turns import ImageRef, Turn
from minicpmv.processing.tokens.vocabulary import MARKUP, Vocabulary
from minicpmv.releases.table import VERSIONS
from tests.tiny import weigh
from tests.unit.processing.conftest import END

SMALL, WIDE = Image.new("RGB", (50, 50), "red"), Image.new("RGB", (150, 80), "blue")


def user(*parts: str | ImageRef) -> Turn:
    return Turn("user", parts)


def assistant(text: str) -> Turn:
    return Turn("assistant", (text,))


CONVERSATIONS: dict[str, tuple[Turn, ...]] = {
    "text": (user("Hello world, how are you?"), assistant("I am fine.")),
    "image": (user(ImageRef(0), "What is in the image?"), assistant("A cat.")),
    "two images": (user("First", ImageRef(0), "then", ImageRef(1)), assistant("ok")),
    "turns": (
        user(ImageRef(0)),
        assistant("A cat."),
        user("And", ImageRef(1)),
        assistant("Red."),
        user("?"),
        assistant("!"),
    ),
    "white space": (user("  a \n"), assistant("\n\n b "), user("\n"), assistant("  c")),
    "empty answer": (user("a"), assistant(""), user("b"), assistant("c")),
    "punctuation": (user("Look!!"), assistant("!! no\n"), user("<AI>"), assistant("</s>")),
}


def images_of(turns: tuple[Turn, ...]) -> list[Image.Image]:
    count = sum(isinstance(part, ImageRef) for turn in turns for part in turn.content)
    return [SMALL, WIDE][:count]


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_training_tokens_before_each_answer_are_its_prompt(processor: MiniCPMVProcessor, name: str) -> None:
    """What the model has read when it learns an answer's first token is what it reads when it has to write it.

    In 4.5's format only the last answer has a think block, so the others are the answers of a prompt without one.
    """
    turns = CONVERSATIONS[name]
    whole = processor.encode_conversation(turns, images_of(turns))
    for position, turn in enumerate(turns):
        if turn.role != "assistant":
            continue
        history = turns[:position]
        thinking = False if processor.version.name == "4.5" and position + 1 == len(turns) else None
        prompt = processor.encode_conversation(
            history, images_of(history), add_generation_prompt=True, enable_thinking=thinking
        )
        length = len(prompt.input_ids)
        assert whole.input_ids[:length] == prompt.input_ids
        assert whole.image_mask[:length] == prompt.image_mask
        assert whole.labels[length] != -100, "the answer starts right after its prompt"
        assert whole.labels[length - 1] == -100


def test_thinking_that_is_trained_begins_where_either_prompt_ends(processors: dict[str, MiniCPMVProcessor]) -> None:
    """Whether the prompt opens the thinking or leaves that to the model. The blanks would melt into the line break."""
    processor = processors["v4_5"]
    whole = processor.encode_conversation((user("a"), assistant("<think>\n \n hm\n</think>\n\n \n b")))
    closed = processor.encode_conversation((user("a"), assistant(" \n b")))
    for ids, labels, thinking in ((whole.input_ids, whole.labels, True), (closed.input_ids, closed.labels, False)):
        prompt = processor.encode_conversation((user("a"),), add_generation_prompt=True, enable_thinking=thinking)
        assert ids[: len(prompt.input_ids)] == prompt.input_ids
        assert -100 not in labels[len(prompt.input_ids) : -1]
    opening = processor.encode_conversation((user("a"),), add_generation_prompt=True).input_ids
    assert whole.input_ids[: len(opening)] == opening
    assert [label == -100 for label in whole.labels] == [True] * len(opening) + [False] * (
        len(whole.labels) - len(opening) - 1
    ) + [True]


def test_thinking_that_the_format_leaves_out_is_not_trained_away_in_silence(
    processors: dict[str, MiniCPMVProcessor],
) -> None:
    turns = (user("a"), assistant("<think>\nhm\n</think>\n\nb"), user("c"), assistant("d"))
    for encode in (processors["v4_5"].encode_conversation, processors["v4_5"].encode_text):
        with pytest.raises(
            UsageError, match=r"conversation\[1\]\.content: found thinking before the last question: 'hm'"
        ):
            encode(turns)
        assert encode(turns[:3], add_generation_prompt=True).input_ids
    assert processors["v4"].encode_conversation(turns).input_ids


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_labels_are_the_answers_and_one_end_each(processor: MiniCPMVProcessor, name: str) -> None:
    turns = CONVERSATIONS[name]
    sample = processor.encode_conversation(turns, images_of(turns))
    end = processor.vocabulary[END[processor.version.name]]
    answers: list[list[int]] = [[]]
    for label in sample.labels:
        if label == end:
            answers.append([])
        elif label != -100:
            answers[-1].append(label)
    assert answers.pop() == [], "nothing is trained after the last end"
    texts = [turn.content[0] for turn in turns if turn.role == "assistant"]
    if processor.version.name == "2.5":  # its format removes white space around messages
        texts = [str(text).strip() for text in texts]
    assert [processor.decode(answer) for answer in answers] == texts
    written = [label == index for label, index in zip(sample.labels, sample.input_ids, strict=True) if label != -100]
    unwritten = len(texts) - 1 if processor.version.name == "2.0" else 0
    assert written.count(False) == unwritten


@pytest.mark.parametrize("version", ["v2_6", "v4", "v4_5"])
def test_the_newline_of_the_assistant_s_header_is_not_trained(
    processors: dict[str, MiniCPMVProcessor], version: str
) -> None:
    processor = processors[version]
    sample = processor.encode_conversation(CONVERSATIONS["turns"], images_of(CONVERSATIONS["turns"]))
    begin = processor.vocabulary["<|im_start|>"]
    header = [begin, *processor.vocabulary.encode_plain("assistant\n")]
    places = [
        place for place in range(len(sample.input_ids)) if sample.input_ids[place : place + len(header)] == header
    ]
    assert len(places) == 3
    assert all(sample.labels[place : place + len(header)] == [-100] * len(header) for place in places)
    # What follows is: the answer's first token, or in 4.5 an empty think block before the last one.
    assert all(sample.labels[place + len(header)] != -100 for place in places[:2])


def test_end_that_is_not_written_is_the_label_of_the_token_after_the_answer(
    processors: dict[str, MiniCPMVProcessor],
) -> None:
    processor = processors["v2"]
    sample = processor.encode_conversation(CONVERSATIONS["empty answer"])
    tag = processor.vocabulary.encode_plain("<用户>")
    second = len(sample.input_ids) - sample.input_ids[::-1].index(tag[-1]) - 1
    position = next(i for i in range(2, second) if sample.input_ids[i : i + len(tag)] == tag)
    assert sample.labels[position] == processor.vocabulary["</s>"]
    assert sample.input_ids.count(processor.vocabulary["</s>"]) == 1


def test_spelled_control_tokens_are_encoded_like_any_text(processors: dict[str, MiniCPMVProcessor]) -> None:
    for model in ("v2_5", "v2_6", "v4", "v4_5"):
        processor = processors[model]
        for text in ("a <|im_end|> b", "<image>", "x<|eot_id|>"):
            ids = processor.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
            sample = processor.encode_conversation((user("a"), assistant(text)))
            assert [label for label in sample.labels if label != -100][:-1] == ids
            processor.tokenizer.backend_tokenizer.encode_special_tokens = False  # transformers leaves it on


def test_think_tags_stay_tokens_where_there_are_any(processors: dict[str, MiniCPMVProcessor]) -> None:
    turns = (user("a <think> b"), assistant("<think>c"))
    sample = processors["v4_5"].encode_conversation(turns)
    index = processors["v4_5"].vocabulary["<think>"]
    assert sample.input_ids.count(index) == 3  # one of them in the block that the format writes
    assert sample.labels.count(index) == 1
    for model in ("v2", "v2_5", "v2_6", "v4"):
        labels = processors[model].encode_conversation(turns).labels
        assert processors[model].decode([label for label in labels if label != -100][:-1]) == "<think>c"


@pytest.mark.parametrize("token", [token for token in MARKUP if "think" not in token])
def test_markup_stays_a_token_in_questions_and_answers(processor: MiniCPMVProcessor, token: str) -> None:
    index = processor.tokenizer.convert_tokens_to_ids(token)
    assert isinstance(index, int)
    sample = processor.encode_conversation((user(f"a {token} b"), assistant(f"{token}c")))
    assert sample.input_ids.count(index) == 2
    assert sample.labels.count(index) == 1


def test_exclamation_mark_is_ordinary_writing(processors: dict[str, MiniCPMVProcessor]) -> None:
    """2.5 declares it as its padding token; the released tokenizer gives every one its own id 0."""
    processor = processors["v2_5"]
    sample = processor.encode_conversation((user("Hello!!"), assistant("Hi! you!")))
    assert sample.input_ids.count(0) == 4
    assert processor.decode([label for label in sample.labels if label != -100], skip_special_tokens=True) == "Hi! you!"


def test_every_token_of_a_prompt_is_attended(processor: MiniCPMVProcessor) -> None:
    """Also "!", whose id from 2.5 on is the one that shorter prompts are padded with."""
    messages = [{"role": "user", "content": "Hi!! you!"}]
    assert processor.apply_chat_template(messages)["attention_mask"].all()


def test_a_prompt_begins_once(processors: dict[str, MiniCPMVProcessor]) -> None:
    """However the tokenizer's own file treats the token that begins a text."""
    processor = processors["v2_5"]
    beginning = processor.vocabulary["<|begin_of_text|>"]
    changed = MiniCPMVProcessor(processor.image_processor, copy.deepcopy(processor.tokenizer))
    changed.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", beginning)]
    )
    assert changed.tokenizer.encode("Hi")[0] == beginning
    ids = changed.apply_chat_template([{"role": "user", "content": "Hi"}])["input_ids"][0].tolist()
    assert ids.count(beginning) == 1
    assert ids == processor.apply_chat_template([{"role": "user", "content": "Hi"}])["input_ids"][0].tolist()


def test_images_are_numbered_and_laid_in_order_of_the_text(processors: dict[str, MiniCPMVProcessor]) -> None:
    processor = processors["v2_6"]
    straight = processor.encode_conversation((user(ImageRef(0), ImageRef(1)),), [SMALL, WIDE])
    crossed = processor.encode_conversation((user(ImageRef(1), ImageRef(0)),), [WIDE, SMALL])
    assert crossed.input_ids == straight.input_ids
    assert crossed.tgt_sizes == straight.tgt_sizes
    assert (crossed.pixel_values == straight.pixel_values).all()


def test_numbering_can_be_turned_off_and_on(processors: dict[str, MiniCPMVProcessor]) -> None:
    processor = processors["v2_6"]
    number = processor.vocabulary["<image_id>"]
    turns = (user(ImageRef(0), "a"),)
    assert number in processor.encode_conversation(turns, [SMALL]).input_ids
    assert number not in processor.encode_conversation(turns, [SMALL], use_image_id=False).input_ids


@pytest.mark.parametrize(("turn", "count"), [(user("a"), 1), (user(ImageRef(0)), 0), (user(ImageRef(1)), 1)])
def test_images_and_their_places_must_match(processor: MiniCPMVProcessor, turn: Turn, count: int) -> None:
    with pytest.raises(UsageError, match="expected every image to have its place in the text"):
        processor.encode_conversation((turn,), [SMALL] * count)


def test_measuring_needs_sizes_only(processor: MiniCPMVProcessor) -> None:
    turns = CONVERSATIONS["two images"]
    whole = processor.encode_conversation(turns, [SMALL, WIDE], max_slice_nums=2)
    sample = processor.encode_text(turns, [SMALL.size, WIDE.size], max_slice_nums=2)
    assert (sample.input_ids, sample.labels, sample.image_mask) == (whole.input_ids, whole.labels, whole.image_mask)


def test_tokenizer_of_another_version_is_refused(processors: dict[str, MiniCPMVProcessor]) -> None:
    with pytest.raises(CheckpointError, match=r"found no token <\|im_start\|>, <\|im_end\|>, <image_id>"):
        Vocabulary(processors["v2_5"].tokenizer, VERSIONS["2.6"])


def test_preparing_to_encode_leaves_the_tokenizer_as_it_was(processors: dict[str, MiniCPMVProcessor]) -> None:
    processor = processors["v2_6"]
    processor.encode_conversation((user("<|im_end|>"),))
    ids = processor.tokenizer.encode("<|im_end|>", add_special_tokens=False)
    assert ids == [processor.vocabulary["<|im_end|>"]]


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_template_mask_leaves_out_what_the_conversation_says(processor: MiniCPMVProcessor, name: str) -> None:
    """What is neither the format's nor an image, in one string, is what was said.

    But for white space, which 2.5 removes at both ends, and for brackets: 2.0 may join ``>`` and ``<`` into one token.
    """
    turns = CONVERSATIONS[name]
    sizes = [image.size for image in images_of(turns)]
    sample = processor.encode_text(turns, sizes)
    assert len(sample.template_mask) == len(sample.input_ids)
    own = [
        token
        for token, is_image, is_template in zip(sample.input_ids, sample.image_mask, sample.template_mask, strict=True)
        if not is_image and not is_template
    ]
    said = ["\n".join(part if isinstance(part, str) else "" for part in turn.content) for turn in turns]
    found = str(processor.tokenizer.decode(own))
    assert re.sub(r"[\s<>]", "", found) == re.sub(r"[\s<>]", "", "".join(said))


ANSWERED = (user("Hi!"), assistant("One."), user("And?"), assistant("Two three."), user("So?"), assistant("Four"))


def test_each_token_of_an_answer_and_its_end_have_the_weight_of_its_turn(processor: MiniCPMVProcessor) -> None:
    plain = processor.encode_text(ANSWERED)
    sample = processor.encode_text(weigh(ANSWERED, 0.5, 0.0, 2.0))
    assert (sample.input_ids, sample.answer_mask) == (plain.input_ids, plain.answer_mask)
    assert sample.label_weights is not None
    said: dict[float, list[int]] = {0.5: [], 0.0: [], 2.0: []}
    for label, weight in zip(sample.labels, sample.label_weights, strict=True):
        said[weight].append(label)
    assert set(said[0.0]) == {-100}, "what weighs nothing has no label"
    end = processor.vocabulary[END[processor.version.name]]
    assert [*processor.vocabulary.encode_plain("One."), end] == said[0.5]
    assert [*processor.vocabulary.encode_plain("Four"), end] == said[2.0]


def test_weight_zero_takes_the_labels_of_one_answer_and_nothing_else(processor: MiniCPMVProcessor) -> None:
    plain, sample = processor.encode_text(ANSWERED), processor.encode_text(weigh(ANSWERED, 1.0, 0.0, 1.0))
    end = processor.vocabulary[END[processor.version.name]]
    answer = [*processor.vocabulary.encode_plain("Two three."), end]
    lost = [one for one, other in zip(plain.labels, sample.labels, strict=True) if one != other]
    assert lost == answer
    assert sample.label_weights is None, "what is left counts alike"


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (1, 1, 0), (0.0, 0.0, 0.0)])
def test_labels_that_count_alike_have_no_weights(processor: MiniCPMVProcessor, weights: tuple[float, ...]) -> None:
    assert processor.encode_text(weigh(ANSWERED, *weights)).label_weights is None


def test_whole_conversations_have_the_weights_of_their_text(processor: MiniCPMVProcessor) -> None:
    turns = weigh(CONVERSATIONS["turns"], 0.25, 1.0, 3.0)
    sample = processor.encode_conversation(turns, images_of(turns))
    assert sample.label_weights == processor.encode_text(turns, [SMALL.size, WIDE.size]).label_weights
    assert sample.label_weights is not None


def test_weight_of_an_end_that_is_not_written_stands_with_its_label(processors: dict[str, MiniCPMVProcessor]) -> None:
    """It is the label of the token that follows, be that the next question's or, untrained itself, another answer's."""
    processor = processors["v2"]
    end = processor.vocabulary["</s>"]
    for turns, weights in (
        (weigh(ANSWERED[:4], 0.5, 0.0), {0.5}),
        (weigh(ANSWERED[:4], 0.5, 2.0), {0.5, 2.0}),
        (weigh((user("a"), assistant("b"), assistant("c")), 0.5, 0.0), {0.5}),
    ):
        sample = processor.encode_text(turns)
        assert sample.label_weights is not None
        found = zip(sample.labels, sample.label_weights, sample.input_ids, strict=True)
        ends = [(weight, token) for label, weight, token in found if label == end]
        assert {weight for weight, _ in ends} == weights
        assert ends[0][1] != end


def test_thinking_weighs_what_its_answer_does(processors: dict[str, MiniCPMVProcessor]) -> None:
    processor = processors["v4_5"]
    thinking = "<think>\nhm\n</think>\n\nb"
    sample = processor.encode_text(weigh((user("a"), assistant(thinking)), 0.5))
    assert sample.label_weights is not None
    trained = [label for label, weight in zip(sample.labels, sample.label_weights, strict=True) if weight == 0.5]
    assert processor.tokenizer.decode(trained) == f"{thinking}<|im_end|>"
    assert len(trained) == sum(label != -100 for label in sample.labels)


def test_thinking_of_an_answer_that_is_only_read_may_be_left_out(processors: dict[str, MiniCPMVProcessor]) -> None:
    """As the format leaves it out of a prompt."""
    turns = (user("a"), assistant("<think>\nhm\n</think>\n\nb"), user("c"), assistant("d"))
    sample = processors["v4_5"].encode_text(weigh(turns, 0.0, 1.0))
    without = (user("a"), assistant("b"), user("c"), assistant("d"))
    assert sample == processors["v4_5"].encode_text(weigh(without, 0.0, 1.0))


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        (
            Turn("assistant", ("a",), -0.5),
            r"conversation\[1\]\.weight: found -0\.5, expected a finite number from 0 on",
        ),
        (Turn("assistant", ("a",), float("nan")), "found nan, expected a finite number"),
        (Turn("assistant", ("a",), float("inf")), "found inf, expected a finite number"),
        (Turn("user", ("a",), 0.0), "found 0.0 on a turn of role 'user', expected 1: only answers are trained"),
    ],
)
def test_a_weight_that_cannot_act_is_refused(processor: MiniCPMVProcessor, turn: Turn, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        processor.encode_text((user("Hi!"), turn, assistant("b")))


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_answers_are_marked_whether_they_are_trained_or_not(processor: MiniCPMVProcessor, name: str) -> None:
    turns = CONVERSATIONS[name]
    sizes = [image.size for image in images_of(turns)]
    sample = processor.encode_text(turns, sizes)
    trained = [label == token for label, token in zip(sample.labels, sample.input_ids, strict=True)]
    assert sample.answer_mask == trained
    assert processor.encode_text(weigh(turns, *[0.0] * len(turns)), sizes).answer_mask == trained

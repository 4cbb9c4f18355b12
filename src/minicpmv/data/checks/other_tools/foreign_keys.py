"""Explains what keys that are not read here mean in other tools, and which of them decide what is learnt.

Whether an unread key matters depends on its value (``unread_keys``), so a name that is missing here hides nothing. The
``decisive`` ones matter whatever their value, because it may be as plain as a word: ``"rejected": "Red."``.
"""

from __future__ import annotations

from dataclasses import dataclass

from minicpmv.data.records.formats.messages import THINKING_KEYS, WEIGHT_KEYS
from minicpmv.data.records.formats.pairs import ANSWERS, QUESTIONS

__all__ = ["HARMLESS", "SWITCHES", "Meaning", "is_part_of_the_talk", "meaning_of"]

_DESCRIBE = (
    "id index idx source dataset data_source origin category type task domain topic tags split lang language model "
    "model_name difficulty level meta metadata info timestamp time date created created_at version license url name "
    "num_turns width height hash"
)
HARMLESS = frozenset(_DESCRIBE.split())
"""Keys, and last words of keys such as ``answer_type``, that describe a record: a number, boolean or long text under
them does not qualify an answer. A picture or a box under them does matter."""
_SWITCH_NAMES = (
    "parallel_tool_calls add_generation_prompt continue_final_message enable_thinking add_special_tokens stream "
    "logprobs store"
)
SWITCHES = frozenset(_SWITCH_NAMES.split())
"""Switches of chat templates and servers; false means that nothing was done."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """Explains a key of other tools."""

    means: str
    fix: str
    decisive: bool = False
    """Whether any value but an empty one changes what is learnt or seen."""


_LABEL = Meaning(
    "whether the answer is a good one (KTO): a bad answer would be learnt as a good one",
    "write true or false, without quotes, under 'label' (--objective dpo, --preference_loss apo_zero_unpaired); "
    "or leave out records whose answer is bad, and remove the key",
    decisive=True,
)
_TRUTHS = ("true", "false", "good", "bad", "yes", "no", "0", "1", "-1")


def _by_name(*groups: tuple[str, Meaning]) -> dict[str, Meaning]:
    return {name: meaning for names, meaning in groups for name in names.split()}


_AT_ANOTHER_PLACE = _by_name(
    (
        " ".join((*WEIGHT_KEYS, *THINKING_KEYS)),
        Meaning("read only in a message of the assistant", "move the key there, or remove it", decisive=True),
    ),
    (
        "image images",
        Meaning(
            "read only as images of the record",
            "name images under 'image' of the record, with <image> where each belongs",
            decisive=True,
        ),
    ),
    (
        "video videos",
        Meaning(
            "read only as films of the record",
            "name films under 'video' of the record, with <video> where each belongs",
            decisive=True,
        ),
    ),
    (
        "objects references system system_prompt",
        Meaning("read only next to the messages", "move the key there, or remove it", decisive=True),
    ),
)
"""Keys that are read, but not in this place."""
_SAID_ELSEWHERE = _by_name(
    (
        " ".join((*QUESTIONS, *ANSWERS, "input", "history", "conversations", "messages", "role", "content", "from")),
        Meaning(
            "a part of the conversation, which is read if there are no messages, or in a message",
            "write what it holds into the messages, or remove the key",
        ),
    ),
    (
        "context hint passage choices options lecture document paragraph",
        Meaning(
            "a part of the question",
            "write it into the question: the model does not see this key",
        ),
    ),
    (
        "system_message system_msg system_instruction system_content system_text sys sys_prompt sysprompt systemprompt "
        "developer developer_message persona",
        Meaning("an instruction for the whole conversation", "rename the key to 'system'"),
    ),
    (
        "think thinks thought thoughts reasoning_details reasoning_text reasoning_trace rationale rationales cot "
        "chain_of_thought explanation scratchpad reflection",
        Meaning(
            "thinking or a reason, which belongs to the answer",
            "write it under 'reasoning_content' of the answer, or into the answer",
        ),
    ),
)
"""Keys whose texts matter at any length, unless the messages contain them."""
_KNOWN = _by_name(
    (
        "frames",
        Meaning(
            "the frames of a film, or how many are taken",
            "write pictures as {'video': [...]} under 'video' of the record, and a number as 'max_frames' next to it",
            decisive=True,
        ),
    ),
    (
        "audio audios speech",
        Meaning("sound: this version trains pictures, films and text", "leave the record out", decisive=True),
    ),
    (
        "tools functions tool_calls function_call tool_call_id tool_call tool_responses",
        Meaning(
            "tools or tool calls, which are read under 'tools' of the record and 'tool_calls' of an answer",
            "write functions and calls there, and results as messages of the role 'tool'; or leave the record out",
            decisive=True,
        ),
    ),
    (
        "rejected chosen rejected_response chosen_response rejected_messages chosen_messages "
        "rejected_answer chosen_answer preference",
        Meaning(
            "a pair for preference training, in a form that is not read",
            "keep the better answer in the messages, and write the other one under 'rejected'",
            decisive=True,
        ),
    ),
    (
        "rejected_images rejected_image rejected_videos rejected_video",
        Meaning(
            "what the worse answer is about: here both answers are about the same images and films",
            "remove the key if it names the same; else leave the record out",
            decisive=True,
        ),
    ),
    (
        "mask masked masks loss_mask label_mask",
        Meaning(
            "a mask, which in some tools is true where a turn is learnt and in others where it is not",
            'write "weight": 0 in each answer that is not to be learnt, and remove the key',
            decisive=True,
        ),
    ),
    (
        "box boxes bbox bboxes objects regions points segmentation",
        Meaning(
            "places in the image",
            "write them as {'ref': [...], 'bbox': [...]} under 'objects', with <ref-object> and <bbox> in the text",
        ),
    ),
    (
        "score scores reward rating quality",
        Meaning("how good the answer is", 'leave out what is not to be learnt, or write a "weight" in the answer'),
    ),
    ("loss_scale", Meaning("how much the answer counts", 'rename the key to "weight"')),
    (
        "min_pixels max_pixels resized_height resized_width detail",
        Meaning("a limit for the size of images", "use --max_slice_nums for all images, or remove the key"),
    ),
)


def meaning_of(key: str, value: object) -> Meaning | None:
    """Return what an unread key means in other tools, if known."""
    if key in ("label", "labels", "kto_tag"):
        is_truth = (
            isinstance(value, bool) or value in (0, 1, -1) if not isinstance(value, str) else value.lower() in _TRUTHS
        )
        return _LABEL if is_truth else None
    return _AT_ANOTHER_PLACE.get(key) or _SAID_ELSEWHERE.get(key) or _KNOWN.get(key)


def is_part_of_the_talk(key: str) -> bool:
    """Return whether other tools hold a part of the conversation under a key."""
    return key.lower() in _SAID_ELSEWHERE

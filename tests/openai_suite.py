"""What a stock ``openai`` client asks: every route, every way to sample, every class of error."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import openai

Fields = dict[str, Any]
Messages = list[dict[str, Any]]

NO_POLICY = {"X-Trimtab-Policy": "none"}

WEATHER: Fields = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["arlen", "bryn"]}, "days": {"enum": [1, 2]}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
CITY: Fields = {
    "type": "object",
    "properties": {"city": {"enum": ["arlen", "bryn"]}},
    "required": ["city"],
    "additionalProperties": False,
}

BY_CONTRACT = {
    "a wrong key": "its error has OpenAI's shape",
    "a wrong key for the models": "its error has OpenAI's shape",
    "models: one": "vLLM does not serve one model by name",
    "models: not there": "its error has OpenAI's shape",
    "responses refused: in the background": "refused for another reason first",
}
"""Asks whose answers the contract changes; a status that both have is still the same."""


@dataclass(frozen=True)
class Ask:
    """One call of a client: ``route`` is its attribute path, such as ``chat.completions.create``.

    ``key`` replaces the client's key.
    """

    name: str
    route: str
    fields: Fields = field(default_factory=dict[str, Any])
    key: str | None = None


def asks(model: str, messages: Messages, spaces: Sequence[int] = ()) -> list[Ask]:
    """Return every ask of the suite about one conversation.

    Args:
        model: The served model.
        messages: The conversation, which ends with what a user says.
        spaces: Tokens that JSON may hold anywhere; a model left to itself may never end with them.
    """
    text = f"<s><|user|>{messages[-1]['content']}<|end|><|assistant|>"
    return [
        *_chat(model, messages),
        *_tools(model, messages, spaces),
        *_completions(model, text),
        *_responses(model, messages, spaces),
        *_errors(model, messages),
        *_models(model),
    ]


def _variants(route: str, prefix: str, base: Fields, variants: Mapping[str, Fields]) -> list[Ask]:
    return [Ask(f"{prefix}: {name}", route, base | more) for name, more in variants.items()]


def _never(tokens: Sequence[int]) -> dict[str, float]:
    return {str(token): -100.0 for token in tokens}


def _chat(model: str, messages: Messages) -> list[Ask]:
    base: Fields = {"model": model, "messages": messages, "temperature": 0, "max_tokens": 12}
    sampled: Fields = {"temperature": 0.9, "seed": 7}
    parts = [{"role": "user", "content": [{"type": "text", "text": messages[-1]["content"]}]}]
    schema = {"name": "city", "schema": CITY, "strict": True}
    variants: dict[str, Fields] = {
        "greedy": {},
        "default length": {"max_tokens": openai.omit},
        "completion tokens": {"max_tokens": openai.omit, "max_completion_tokens": 5},
        "system": {"messages": [{"role": "system", "content": "be brief"}, *messages]},
        "parts": {"messages": parts},
        "continued": {
            "messages": [*messages, {"role": "assistant", "content": "the"}],
            "extra_body": {"add_generation_prompt": False, "continue_final_message": True},
        },
        "seed": sampled,
        "another seed": {**sampled, "seed": 8},
        "n": {**sampled, "n": 3},
        "top_p, top_k, min_p": {**sampled, "top_p": 0.8, "extra_body": {"top_k": 9, "min_p": 0.01}},
        "penalties": {"presence_penalty": 1.0, "frequency_penalty": 0.5},
        "repetition": {"extra_body": {"repetition_penalty": 1.3, "min_tokens": 4}},
        "bias": {"logit_bias": {"40": 100, "41": -100}},
        "stop": {"stop": ["-", " is"]},
        "stop kept": {"stop": ["-", " is"], "extra_body": {"include_stop_str_in_output": True}},
        "stop tokens": {"extra_body": {"stop_token_ids": list(range(40, 300, 3))}},
        "past the end": {"extra_body": {"ignore_eos": True}, "max_tokens": 24},
        "logprobs": {"logprobs": True, "top_logprobs": 5},
        "logprobs of the chosen": {"logprobs": True},
        "prompt logprobs": {"extra_body": {"prompt_logprobs": 2}},
        "token ids": {"extra_body": {"return_token_ids": True}},
        "JSON": {"response_format": {"type": "json_object"}},
        "schema": {"response_format": {"type": "json_schema", "json_schema": schema}},
        "choice": {"extra_body": {"structured_outputs": {"choice": ["arlen", "bryn"]}}},
        "user and metadata": {"user": "u", "metadata": {"a": "b"}, "store": False},
        "stream": {"stream": True},
        "stream with usage": {"stream": True, "stream_options": {"include_usage": True}},
        "stream of n": {**sampled, "n": 2, "stream": True},
        "stream with logprobs": {"stream": True, "logprobs": True, "top_logprobs": 2},
        "stream with stop": {"stream": True, "stop": ["-", " is"]},
        "stream of a schema": {
            "stream": True,
            "response_format": {"type": "json_schema", "json_schema": schema},
        },
    }
    return _variants("chat.completions.create", "chat", base, variants)


def _tools(model: str, messages: Messages, spaces: Sequence[int]) -> list[Ask]:
    base: Fields = {"model": model, "messages": messages, "temperature": 0, "max_tokens": 120}
    base |= {"tools": [WEATHER], "logit_bias": _never(spaces)}
    named = {"type": "function", "function": {"name": "get_weather"}}
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city": "arlen", "days": 1}'},
    }
    answered = [
        *messages,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    ]
    variants: dict[str, Fields] = {
        "none": {"tool_choice": "none"},
        "auto": {"tool_choice": "auto"},
        "required": {"tool_choice": "required", "parallel_tool_calls": False},
        "named": {"tool_choice": named},
        "named, streamed": {"tool_choice": named, "stream": True},
        "required, streamed": {
            "tool_choice": "required",
            "parallel_tool_calls": False,
            "stream": True,
        },
        "several": {"tool_choice": "required"},
        "a name that is not there": {
            "tool_choice": {"type": "function", "function": {"name": "nothing"}}
        },
        "answered": {"messages": answered, "tool_choice": "none"},
    }
    return _variants("chat.completions.create", "tools", base, variants)


def _completions(model: str, text: str) -> list[Ask]:
    base: Fields = {"model": model, "prompt": text, "temperature": 0, "max_tokens": 8}
    sampled: Fields = {"temperature": 0.9, "seed": 7}
    variants: dict[str, Fields] = {
        "greedy": {},
        "several prompts": {"prompt": [text, "the city of"]},
        "tokens": {"prompt": [0, 40, 41, 42]},
        "several of tokens": {"prompt": [[0, 40, 41], [0, 50, 51, 52]]},
        "echo": {"echo": True},
        "echo of logprobs": {"echo": True, "logprobs": 2},
        "only the prompt": {"echo": True, "logprobs": 1, "max_tokens": 0},
        "logprobs": {"logprobs": 4},
        "n": {**sampled, "n": 2},
        "stop": {"stop": ["-", " is"]},
        "suffix": {"suffix": "end"},
        "stream": {"stream": True},
        "stream of several with usage": {
            "prompt": [text, "the city of"],
            "stream": True,
            "stream_options": {"include_usage": True},
        },
        "stream of n": {**sampled, "n": 2, "stream": True, "logprobs": 1},
    }
    return _variants("completions.create", "completions", base, variants)


def _responses(model: str, messages: Messages, spaces: Sequence[int]) -> list[Ask]:
    question = messages[-1]["content"]
    base: Fields = {"model": model, "input": question, "temperature": 0, "max_output_tokens": 12}
    function = {"type": "function", "name": "get_weather", "strict": True}
    function |= {"parameters": WEATHER["function"]["parameters"]}
    tool = {"tools": [function], "max_output_tokens": 120}
    tool |= {"extra_body": {"logit_bias": _never(spaces)}}
    shape = {"format": {"type": "json_schema", "name": "city", "schema": CITY, "strict": True}}
    logprobs = {"include": ["message.output_text.logprobs"], "top_logprobs": 3}
    variants: dict[str, Fields] = {
        "text": {},
        "messages": {"input": messages},
        "instructions": {"instructions": "be brief"},
        "sampled": {"temperature": 0.9, "top_p": 0.9, "extra_body": {"seed": 3}},
        "logprobs": logprobs,
        "schema": {"text": shape},
        "tool": {**tool, "tool_choice": {"type": "function", "name": "get_weather"}},
        "tool required": {**tool, "tool_choice": "required", "parallel_tool_calls": False},
        "tools, streamed": {**tool, "tool_choice": "required", "stream": True},
        "no tool": {**tool, "tool_choice": "none"},
        "not stored": {"store": False, "metadata": {"a": "b"}},
        "cut": {"max_output_tokens": 1},
        "stream": {"stream": True},
        "stream with logprobs": {"stream": True, **logprobs},
        "after one that is not there": {"previous_response_id": "resp_0123"},
    }
    missing = Ask("responses: not there", "responses.retrieve", {"response_id": "resp_0123"})
    return [*_variants("responses.create", "responses", base, variants), missing]


def _errors(model: str, messages: Messages) -> list[Ask]:
    base: Fields = {"model": model, "messages": messages, "max_tokens": 4}
    chat: dict[str, Fields] = {
        "another model": {"model": "nothing"},
        "no messages": {"messages": []},
        "messages of another kind": {"messages": "hello"},
        "a role that is none": {"messages": [{"role": "wizard", "content": "hi"}]},
        "a picture": {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": "data:image/png;,"}}],
                }
            ]
        },
        "temperature below 0": {"temperature": -1},
        "temperature in words": {"temperature": "warm"},
        "top_p above 1": {"top_p": 1.5},
        "too many tokens": {"max_tokens": 100_000},
        "fewer tokens than none": {"max_tokens": -1},
        "a prompt too long": {"messages": [{"role": "user", "content": "the city " * 1500}]},
        "n of 0": {"n": 0},
        "n of too many, greedy": {"n": 100_000},
        "logprobs of too many": {"logprobs": True, "top_logprobs": 1000},
        "logprobs without": {"top_logprobs": 2},
        "bias out of range": {"logit_bias": {"40": 1000}},
        "bias of no token": {"logit_bias": {"99999": 1}},
        "stream options without a stream": {"stream_options": {"include_usage": True}},
        "a schema that is none": {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": {"type": "nothing"}},
            }
        },
        "a tool required of none": {"tool_choice": "required"},
        "tools of none": {"tools": [], "tool_choice": "required"},
        "a seed too large": {"seed": 2**80},
        "an error in a stream": {"stream": True, "temperature": -1},
    }
    completions: dict[str, Fields] = {
        "another model": {"model": "nothing"},
        "no prompt": {"prompt": []},
        "tokens out of range": {"prompt": [10**6]},
        "a prompt of another kind": {"prompt": {"a": 1}},
        "logprobs of too many": {"logprobs": 1000},
    }
    responses: dict[str, Fields] = {
        "another model": {"model": "nothing"},
        "temperature below 0": {"temperature": -1},
        "in the background": {"background": True, "store": False},
    }
    prompt = {"model": model, "prompt": "the", "max_tokens": 2}
    asked = {"model": model, "input": "the", "max_output_tokens": 2}
    return [
        *_variants("chat.completions.create", "chat refused", base, chat),
        *_variants("completions.create", "completions refused", prompt, completions),
        *_variants("responses.create", "responses refused", asked, responses),
        Ask("a wrong key", "chat.completions.create", base, key="wrong"),
        Ask("a wrong key for the models", "models.list", key="wrong"),
    ]


def _models(model: str) -> list[Ask]:
    return [
        Ask("models: all", "models.list"),
        Ask("models: one", "models.retrieve", {"model": model}),
        Ask("models: not there", "models.retrieve", {"model": "nothing"}),
    ]

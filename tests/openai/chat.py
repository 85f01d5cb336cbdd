"""OpenAI's official client against a server of ours: chats, whole and streamed.

OPENAI_BASE_URL and OPENAI_API_KEY say where; standard input has the model's name and what
it answers to one question, as JSON. A model that says nothing more than its first word, and
one that fails after it, are named too where there are such.
"""

import json
import sys

import openai

asked = json.load(sys.stdin)
client = openai.OpenAI(max_retries=0)
messages = [
    {"role": "developer", "content": "Say it again."},
    {"role": "user", "content": [{"type": "text", "text": asked["question"]}]},
]


def create(model=asked["model"], **further):
    return client.chat.completions.create(
        **{"model": model, "messages": messages, "temperature": 0, **further}
    )


whole = create(seed=7, max_completion_tokens=50, stop=["\n\n"], user="a-test", n=1)
assert whole.object == "chat.completion" and whole.id.startswith("chatcmpl-"), whole
assert whole.model == asked["model"] and whole.created > 1_700_000_000, whole
assert len(whole.choices) == 1, whole
choice = whole.choices[0]
assert choice.message.role == "assistant" and choice.index == 0, whole
assert choice.finish_reason in ("stop", "length"), whole
usage = whole.usage
assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, usage
assert usage.prompt_tokens > 0 and usage.completion_tokens > 0, usage

# The same again as pieces; what it said may be sent back as it is.
messages.append(choice.message.model_dump())
messages.append({"role": "user", "content": asked["question"]})
pieces, reasons, used = [], [], []
with create(
    stream=True,
    stream_options={"include_usage": True},
    seed=7,
    max_tokens=50,
    stop="\n\n",
) as stream:
    for chunk in stream:
        assert chunk.object == "chat.completion.chunk", chunk
        if chunk.usage:
            assert not chunk.choices, chunk
            used.append(chunk.usage.completion_tokens)
            continue
        pieces.append(chunk.choices[0].delta.content or "")
        if chunk.choices[0].finish_reason:
            reasons.append(chunk.choices[0].finish_reason)
assert reasons == [choice.finish_reason] and len(used) == 1, (reasons, used)
plain = [chunk.usage for chunk in create(stream=True, max_tokens=5)]
assert not any(plain), plain

for param, further in [
    ("tools", {"tools": [{"type": "function", "function": {"name": "f"}}]}),
    ("n", {"n": 2}),
    ("response_format", {"response_format": {"type": "json_object"}}),
    ("messages", {"messages": []}),
    ("temperature", {"temperature": 3}),
    ("model", {"model": "none"}),
]:
    try:
        create(**further)
    except (openai.BadRequestError, openai.NotFoundError) as error:
        assert error.param == param, repr(error.body)
    else:
        raise AssertionError(f"{param} was accepted")

if "silent" in asked:
    # Who goes away in the middle is not waited for.
    stream = create(asked["silent"], stream=True)
    for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    stream.close()
if "broken" in asked:
    said = ""
    try:
        for chunk in create(asked["broken"], stream=True):
            said += chunk.choices[0].delta.content or ""
    except openai.APIError as error:
        assert error.code == "model_unavailable", repr(error.body)
    else:
        raise AssertionError("the stream came to an end")
    assert said, "something came before"

json.dump({"whole": choice.message.content, "streamed": "".join(pieces)}, sys.stdout)

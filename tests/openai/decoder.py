"""OpenAI's official client against a server of ours that has a decoder: what it says, whole and
streamed, and where it ends.

OPENAI_BASE_URL and OPENAI_API_KEY say where; standard input has, as JSON, the model's name, a
conversation and a prompt, and what the reference makes of them at temperature 0; and the name of a model for
the answer that is left in the middle.
"""

import json
import sys

import openai

asked = json.load(sys.stdin)
client = openai.OpenAI(max_retries=0)
text, tokens = asked["text"], asked["tokens"]


def create(**further):
    return client.chat.completions.create(
        **{
            "model": asked["model"],
            "messages": asked["messages"],
            "temperature": 0,
            "max_completion_tokens": tokens,
            **further,
        }
    )


def answer(**further):
    """Its text, why it ended and what it used: the same whole and streamed."""
    whole = create(**further)
    choice = whole.choices[0]
    pieces, reasons, used = [], [], []
    with create(
        stream=True, stream_options={"include_usage": True}, **further
    ) as stream:
        for chunk in stream:
            if chunk.usage:
                used.append(chunk.usage)
                continue
            pieces.append(chunk.choices[0].delta.content or "")
            if chunk.choices[0].finish_reason:
                reasons.append(chunk.choices[0].finish_reason)
    assert "".join(pieces) == choice.message.content, (pieces, whole)
    assert reasons == [choice.finish_reason], (reasons, whole)
    assert used == [whole.usage], (used, whole)
    usage = whole.usage
    assert usage.prompt_tokens == asked["prompt_tokens"], usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, usage
    return choice.message.content, choice.finish_reason, usage.completion_tokens


assert answer() == (text, "length", tokens), answer()

# The first of the texts that end it, which is not told.
middle = text[len(text) // 2 :][:3]
for stop in (middle, ["not in it", middle, text[-1:] + "!"]):
    said, reason, used = answer(stop=stop)
    assert (said, reason) == (text[: text.index(middle)], "stop"), (stop, said, reason)
    assert 0 < used <= tokens, used

said, reason, used = answer(max_completion_tokens=1)
assert reason == "length" and used == 1 and text.startswith(said), (said, reason, used)

# A seed is a text: the same whole and streamed, and another one for another seed.
drawn = [answer(temperature=1.5, seed=seed)[0] for seed in (7, 7, 8)]
assert drawn[0] == drawn[1] != drawn[2], drawn
assert answer(temperature=1.5, seed=7, top_p=1e-6)[0] == text
assert answer(temperature=1.5, extra_body={"top_k": 1})[0] == text

try:
    create(messages=[{"role": "user", "content": "a" * 200_000}])
except openai.BadRequestError as error:
    assert error.code == "context_length_exceeded", repr(error.body)
else:
    raise AssertionError("a prompt beyond the window was accepted")

# A text that goes on as it stands.
going_on = asked["going_on"]


def go_on(**further):
    return client.completions.create(
        **{
            "model": asked["model"],
            "prompt": going_on["prompt"],
            "temperature": 0,
            "max_tokens": going_on["tokens"],
            **further,
        }
    )


whole = go_on()
assert whole.object == "text_completion" and whole.id.startswith("cmpl-"), whole
choice = whole.choices[0]
assert (choice.text, choice.finish_reason) == (going_on["text"], "length"), whole
usage = whole.usage
assert usage.prompt_tokens == going_on["prompt_tokens"], usage
assert usage.completion_tokens == going_on["tokens"], usage
pieces, reasons, used = [], [], []
with go_on(stream=True, stream_options={"include_usage": True}) as stream:
    for chunk in stream:
        assert chunk.object == "text_completion", chunk
        if chunk.usage:
            used.append(chunk.usage)
            continue
        pieces.append(chunk.choices[0].text)
        if chunk.choices[0].finish_reason:
            reasons.append(chunk.choices[0].finish_reason)
assert ("".join(pieces), reasons, used) == (choice.text, ["length"], [usage]), pieces
assert go_on(max_tokens=None).usage.completion_tokens == 16
for param, further in [
    ("n", {"n": 2}),
    ("echo", {"echo": True}),
    ("logprobs", {"logprobs": 1}),
    ("prompt", {"prompt": [1, 2]}),
    ("prompt", {"prompt": "a" * 200_000}),
]:
    try:
        go_on(**further)
    except openai.BadRequestError as error:
        assert error.param == param, repr(error.body)
    else:
        raise AssertionError(f"{param} was accepted")

# Who goes away in the middle.
with create(
    model=asked["endless"], max_completion_tokens=asked["most"], stream=True
) as stream:
    for chunk in stream:
        assert chunk.choices[0].finish_reason is None, chunk
        if chunk.choices[0].delta.content:
            break

json.dump({}, sys.stdout)

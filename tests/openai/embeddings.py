"""OpenAI's official client against a server of ours: models and embeddings.

OPENAI_BASE_URL and OPENAI_API_KEY say where; standard input has what to ask for, as JSON.
It answers what it found, as JSON, and ends with an error where the client was told
something else than it should.
"""

import array
import json
import sys

import openai


def refused(kind, code, param, ask):
    """The client raises that, with what the server says of it."""
    try:
        ask()
    except openai.APIStatusError as error:
        assert type(error) is kind, repr(error)
        assert error.code == code, repr(error.body)
        assert error.param == param, repr(error.body)
        assert error.request_id, "the answer has no id"
        return error.message
    raise AssertionError(f"nothing was refused: {kind} {code}")


asked = json.load(sys.stdin)
# A refusal that may be retried is answered at once here.
client = openai.OpenAI(max_retries=0)

models = {model.id: model for model in client.models.list()}
assert models[asked["model"]].object == "model"
shown = client.models.retrieve(asked["model"])
assert shown.owned_by == "heyday", shown
assert (shown.created > 1_700_000_000) == asked.get("created", True), shown
refused(
    openai.NotFoundError,
    "model_not_found",
    "model",
    lambda: client.models.retrieve("none"),
)

# The client asks for base64 where nothing is said, and decodes it.
found = client.embeddings.create(model=asked["model"], input=asked["texts"])
plain = client.embeddings.create(
    model=asked["model"],
    input=asked["texts"],
    encoding_format="float",
    dimensions=asked["dimensions"],
    user="a-test",
)
vectors = [item.embedding for item in found.data]
as_sent = [array.array("f", vector) for vector in vectors]
assert as_sent == [array.array("f", item.embedding) for item in plain.data]
assert [item.index for item in found.data] == list(range(len(vectors)))
assert found.model == asked["model"] and found.object == "list"
assert found.usage.prompt_tokens == found.usage.total_tokens > 0
one = client.embeddings.create(model=asked["model"], input=asked["texts"][0])
assert len(one.data) == 1


def embed(**further):
    return lambda: client.embeddings.create(
        **{"model": asked["model"], "input": "a", **further}
    )


bad = openai.BadRequestError
for kind, code, param, further in [
    (openai.NotFoundError, "model_not_found", "model", {"model": "none"}),
    (bad, "invalid_value", "model", {"model": asked["judge"]}),
    (bad, "context_length_exceeded", "input", {"input": "rotor " * 5_000}),
    (bad, "invalid_value", "input", {"input": []}),
    (bad, "invalid_value", "input", {"input": [1, 2, 3]}),
    (bad, "invalid_value", "input", {"input": ["a"] * 2_049}),
    (bad, "invalid_value", "dimensions", {"dimensions": 7}),
    (bad, "unsupported_parameter", "speed", {"extra_body": {"speed": 3}}),
]:
    message = refused(kind, code, param, embed(**further))
    if param != "input":
        assert param in message, message

stranger = openai.OpenAI(api_key="not-the-token", max_retries=0)
refused(openai.AuthenticationError, "invalid_api_key", None, stranger.models.list)
# What OpenAI has and we lack is told in its form too.
refused(
    openai.NotFoundError,
    "not_found",
    None,
    lambda: client.moderations.create(input="a"),
)

json.dump({"vectors": vectors, "tokens": found.usage.prompt_tokens}, sys.stdout)

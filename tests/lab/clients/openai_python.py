"""OpenAI's official Python client, in each of its major versions.

1.x and 2.x write `messages` before `model` in the body.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import openai
from adapter import Saw, Task, run, streamed, timed


def client_of(task: Task, key: str | None = None) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{task['url']}/v1", api_key=key or task["key"], max_retries=0, timeout=120)


def ask(task: Task) -> list[Any]:
    return [{"role": "user", "content": task["question"]}]


def chat(task: Task) -> Saw:
    answer = client_of(task).chat.completions.create(
        model=task["models"]["chat"], messages=ask(task), max_tokens=task["tokens"]
    )
    assert answer.usage is not None
    return {
        "text": answer.choices[0].message.content,
        "model": answer.model,
        "answer_tokens": answer.usage.completion_tokens,
        "prompt_tokens": answer.usage.prompt_tokens,
    }


def stream(task: Task) -> Saw:
    chunks = client_of(task).chat.completions.create(
        model=task["models"]["chat"], messages=ask(task), max_tokens=task["tokens"], stream=True
    )
    return streamed(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def tools(task: Task) -> Saw:
    client, model = client_of(task), task["models"]["tools"]
    messages: list[Any] = [{"role": "user", "content": task["tool_question"]}]
    first = client.chat.completions.create(model=model, messages=messages, tools=[task["tool"]]).choices[0].message
    calls = first.tool_calls or []
    messages.append(first)
    messages += [{"role": "tool", "tool_call_id": call.id, "content": task["tool_result"]} for call in calls]
    answer = client.chat.completions.create(
        model=model, messages=messages, tools=[task["tool"]], max_tokens=task["tokens"]
    )
    return {
        "calls": [{"name": c.function.name, "arguments": json.loads(c.function.arguments)} for c in calls],
        "text": answer.choices[0].message.content,
    }


def structured(task: Task) -> Saw:
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "city", "schema": task["schema"], "strict": True}}
    answer = client_of(task).chat.completions.create(
        model=task["models"]["chat"], messages=ask(task), response_format=wanted
    )
    return {"value": json.loads(answer.choices[0].message.content or "")}


def images(task: Task) -> Saw:
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{task['image']}"}},
    ]
    messages: list[Any] = [{"role": "user", "content": parts}]
    answer = client_of(task).chat.completions.create(
        model=task["models"]["images"], messages=messages, max_tokens=task["tokens"]
    )
    return {"text": answer.choices[0].message.content}


def embeddings(task: Task) -> Saw:
    answer = client_of(task).embeddings.create(model=task["models"]["embeddings"], input=["the sky", "a river"])
    return {"vectors": [entry.embedding for entry in answer.data]}


def listed(task: Task) -> Saw:
    return {"models": [entry.id for entry in client_of(task).models.list()]}


def show(task: Task) -> Saw:
    return {"shown": [client_of(task).models.retrieve(task["models"]["chat"]).id]}


def errors(task: Task) -> Saw:
    def create(client: openai.OpenAI, model: str) -> Callable[[], object]:
        return lambda: client.chat.completions.create(model=model, messages=ask(task))

    return {
        "unknown model": refused(create(client_of(task), "nosuchmodel"), openai.NotFoundError),
        "wrong key": refused(create(client_of(task, "wrong"), task["models"]["chat"]), openai.AuthenticationError),
    }


def refused(action: Callable[[], object], expected: type[openai.APIStatusError]) -> Saw:
    try:
        action()
    except expected as error:
        # The client looks for OpenAI's {"error": {…}} and unpacks it.
        body: Any = error.body
        return {"status": error.status_code, "message": body["message"]}
    return {"status": 200, "message": ""}


def cancel(task: Task) -> Saw:
    client, model = client_of(task), task["models"]["slow"]
    chunks = client.chat.completions.create(model=model, messages=ask(task), stream=True)
    pieces = [next(chunks) for _ in range(task["cancelled_after"])]
    chunks.close()
    after = timed(lambda: client.chat.completions.create(model=model, messages=ask(task), max_tokens=1))
    return {"pieces": len(pieces), "next_s": after}


def responses(task: Task) -> Saw:
    client = client_of(task)
    model, limit = task["models"]["tools"], task["tokens"]
    answer = client.responses.create(model=model, input=task["question"], max_output_tokens=limit)
    events = client.responses.create(model=model, input=task["question"], max_output_tokens=limit, stream=True)
    pieces = streamed(event.delta for event in events if event.type == "response.output_text.delta")
    function = task["tool"]["function"]
    wanted: Any = {"type": "function", "strict": False, **function}
    called = client.responses.create(model=model, input=task["tool_question"], tools=[wanted])
    calls = [item for item in called.output if item.type == "function_call"]
    return {
        "text": answer.output_text,
        "answer_tokens": answer.usage.output_tokens if answer.usage else 0,
        "streamed": pieces,
        "calls": [{"name": call.name, "arguments": json.loads(call.arguments)} for call in calls],
    }


def bounded(task: Task) -> Saw:
    """By the name that has replaced `max_tokens`, which an instance does not know."""
    create = client_of(task).chat.completions.create
    limit: Any = {"max_completion_tokens": task["few_tokens"]}
    whole = create(model=task["models"]["chat"], messages=ask(task), **limit)
    usage: Any = {"stream_options": {"include_usage": True}}
    chunks = list(create(model=task["models"]["chat"], messages=ask(task), stream=True, **limit, **usage))
    assert whole.usage is not None
    last = chunks[-1].usage
    assert last is not None
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    return {
        "sent": limit,
        "whole": {"answer_tokens": whole.usage.completion_tokens, "reason": whole.choices[0].finish_reason},
        "streamed": {"answer_tokens": last.completion_tokens, "reason": reasons[0]},
    }


if __name__ == "__main__":
    run(
        {
            "chat": chat,
            "stream": stream,
            "tools": tools,
            "structured output": structured,
            "images": images,
            "embeddings": embeddings,
            "list": listed,
            "show": show,
            "errors": errors,
            "cancel": cancel,
            "responses": responses,
            "bounded": bounded,
        }
    )

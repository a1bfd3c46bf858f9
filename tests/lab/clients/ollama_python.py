"""The official Python client of Ollama."""

from __future__ import annotations

import json
from collections.abc import Callable

import ollama
from adapter import Saw, Task, run, streamed, timed


def client_of(task: Task, key: str | None = None) -> ollama.Client:
    return ollama.Client(host=task["url"], headers={"Authorization": f"Bearer {key or task['key']}"})


def ask(task: Task) -> list[dict[str, str]]:
    return [{"role": "user", "content": task["question"]}]


def chat(task: Task) -> Saw:
    answer = client_of(task).chat(task["models"]["chat"], ask(task), options={"num_predict": task["tokens"]})
    return {
        "text": answer.message.content,
        "model": answer.model,
        "answer_tokens": answer.eval_count,
        "prompt_tokens": answer.prompt_eval_count,
    }


def stream(task: Task) -> Saw:
    options = {"num_predict": task["tokens"]}
    parts = client_of(task).chat(task["models"]["chat"], ask(task), stream=True, options=options)
    return streamed(part.message.content or "" for part in parts)


def tools(task: Task) -> Saw:
    client, model = client_of(task), task["models"]["tools"]
    messages: list[object] = [{"role": "user", "content": task["tool_question"]}]
    first = client.chat(model, messages, tools=[task["tool"]]).message
    messages += [first, {"role": "tool", "content": task["tool_result"], "tool_name": "get_weather"}]
    answer = client.chat(model, messages, tools=[task["tool"]], options={"num_predict": task["tokens"]})
    calls = [call.function for call in first.tool_calls or ()]
    return {
        "calls": [{"name": call.name, "arguments": dict(call.arguments)} for call in calls],
        "text": answer.message.content,
    }


def structured(task: Task) -> Saw:
    answer = client_of(task).chat(task["models"]["chat"], ask(task), format=task["schema"])
    return {"value": json.loads(answer.message.content or "")}


def images(task: Task) -> Saw:
    message = {"role": "user", "content": "What is this?", "images": [task["image"]]}
    answer = client_of(task).chat(task["models"]["images"], [message], options={"num_predict": task["tokens"]})
    return {"text": answer.message.content}


def embeddings(task: Task) -> Saw:
    answer = client_of(task).embed(task["models"]["embeddings"], ["the sky", "a river"])
    return {"vectors": [list(vector) for vector in answer.embeddings]}


def listed(task: Task) -> Saw:
    return {"models": [entry.model for entry in client_of(task).list().models]}


def show(task: Task) -> Saw:
    shown = client_of(task).show(task["models"]["chat"])
    return {"shown": [item for item in shown.capabilities or () if item == "completion"]}


def errors(task: Task) -> Saw:
    client = client_of(task)
    return {
        "unknown model": refused(lambda: client.chat("nosuchmodel", ask(task))),
        "wrong key": refused(lambda: client_of(task, "wrong").chat(task["models"]["chat"], ask(task))),
        "closed": refused(lambda: client.pull(task["models"]["chat"])),
    }


def refused(action: Callable[[], object]) -> Saw:
    try:
        action()
    except ollama.ResponseError as error:
        return {"status": error.status_code, "message": error.error}
    return {"status": 200, "message": ""}


def cancel(task: Task) -> Saw:
    client, model = client_of(task), task["models"]["slow"]
    parts = client.chat(model, ask(task), stream=True)
    pieces = [next(parts) for _ in range(task["cancelled_after"])]
    parts.close()
    return {"pieces": len(pieces), "next_s": timed(lambda: client.chat(model, ask(task), options={"num_predict": 1}))}


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
        }
    )

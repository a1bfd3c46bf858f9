"""curl, as documentation and scripts use it. The key travels over standard input, never in an argument."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

from adapter import Saw, Task, run, streamed, timed


def argv(task: Task, path: str, body: str, *options: str) -> list[str]:
    data = ["--data-binary", f"@{body}", "-H", "Content-Type: application/json"] if body else []
    return ["curl", "-sSN", "-m", "120", "-K", "-", *data, *options, task["url"] + path]


def config(task: Task, key: str | None = None) -> str:
    return f'header = "Authorization: Bearer {key or task["key"]}"\n'


def call(task: Task, path: str, body: object = None, *options: str, key: str | None = None) -> tuple[int, Any]:
    """Status, and the JSON of the answer."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        if body is not None:
            json.dump(body, file)
            file.flush()
        command = argv(task, path, file.name if body is not None else "", "-w", "\n%{http_code}", *options)
        done = subprocess.run(command, input=config(task, key), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"curl ended with {done.returncode}: {done.stderr}")
    text, _, status = done.stdout.rpartition("\n")
    return int(status), json.loads(text)


def lines(task: Task, path: str, body: object) -> Iterator[str]:
    """The answer, line by line as it comes; closing the iterator ends curl, and with it the connection."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(body, file)
        file.flush()
        command = argv(task, path, file.name)
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as curl:
            assert curl.stdin is not None
            assert curl.stdout is not None
            curl.stdin.write(config(task))
            curl.stdin.close()
            try:
                yield from curl.stdout
            finally:
                curl.kill()


def native(task: Task, model: str, **more: object) -> dict[str, Any]:
    messages = [{"role": "user", "content": task["question"]}]
    return {"model": task["models"][model], "messages": messages, "stream": False, **more}


def chat(task: Task) -> Saw:
    _, answer = call(task, "/api/chat", native(task, "chat", options={"num_predict": task["tokens"]}))
    return {
        "text": answer["message"]["content"],
        "model": answer["model"],
        "answer_tokens": answer["eval_count"],
        "prompt_tokens": answer["prompt_eval_count"],
    }


def stream(task: Task) -> Saw:
    body = {"model": task["models"]["chat"], "prompt": task["question"], "options": {"num_predict": task["tokens"]}}
    return streamed(json.loads(line)["response"] for line in lines(task, "/api/generate", body))


def tools(task: Task) -> Saw:
    messages: list[Any] = [{"role": "user", "content": task["tool_question"]}]
    body = {"model": task["models"]["tools"], "tools": [task["tool"]], "messages": messages, "stream": False}
    _, first = call(task, "/api/chat", body)
    calls = [entry["function"] for entry in first["message"]["tool_calls"]]
    messages += [first["message"], {"role": "tool", "content": task["tool_result"]}]
    _, answer = call(task, "/api/chat", body)
    return {
        "calls": [{"name": entry["name"], "arguments": entry["arguments"]} for entry in calls],
        "text": answer["message"]["content"],
    }


def structured(task: Task) -> Saw:
    _, answer = call(task, "/api/chat", native(task, "chat", format=task["schema"]))
    return {"value": json.loads(answer["message"]["content"])}


def images(task: Task) -> Saw:
    """Larger than a MiB, so curl asks with Expect: 100-continue first; sent in chunks, so nobody knows its length."""
    body = {"messages": [{"role": "user", "content": "What is this?", "images": [task["image"]]}]}
    body |= {"stream": False, "options": {"num_predict": task["tokens"]}, "model": task["models"]["images"]}
    _, answer = call(task, "/api/chat", body, "-H", "Transfer-Encoding: chunked")
    return {"text": answer["message"]["content"]}


def embeddings(task: Task) -> Saw:
    body = {"model": task["models"]["embeddings"], "input": ["the sky", "a river"]}
    return {"vectors": call(task, "/api/embed", body)[1]["embeddings"]}


def listed(task: Task) -> Saw:
    tags = [entry["name"] for entry in call(task, "/api/tags")[1]["models"]]
    ids = [entry["id"] for entry in call(task, "/v1/models")[1]["data"]]
    if sorted(tags) != sorted(ids):
        raise AssertionError(f"/api/tags has {tags}, /v1/models {ids}")
    return {"models": tags}


def show(task: Task) -> Saw:
    _, shown = call(task, "/api/show", {"model": task["models"]["chat"]})
    return {"shown": [item for item in shown["capabilities"] if item == "completion"]}


def errors(task: Task) -> Saw:
    model = task["models"]["chat"]

    def refused(path: str, body: object, key: str | None = None) -> Saw:
        status, answer = call(task, path, body, key=key)
        return {"status": status, "message": answer["error"]}

    return {
        "unknown model": refused("/api/generate", {"model": "nosuchmodel", "prompt": "x"}),
        "wrong key": refused("/api/generate", {"model": model, "prompt": "x"}, key="wrong"),
        "closed": refused("/api/pull", {"model": model}),
        "no model": refused("/api/chat", {"messages": []}),
    }


def cancel(task: Task) -> Saw:
    answer = lines(task, "/api/chat", native(task, "slow", stream=True))
    pieces = [next(answer) for _ in range(task["cancelled_after"])]
    answer.close()  # type: ignore[attr-defined]
    after = timed(lambda: call(task, "/api/chat", native(task, "slow", options={"num_predict": 1})))
    return {"pieces": len(pieces), "next_s": after}


def responses(task: Task) -> Saw:
    body = {"input": task["question"], "max_output_tokens": task["tokens"], "model": task["models"]["tools"]}
    _, answer = call(task, "/v1/responses", body)
    parts = [
        json.loads(line[6:]) for line in lines(task, "/v1/responses", {**body, "stream": True}) if line[:5] == "data:"
    ]
    tool = {"type": "function", **task["tool"]["function"]}
    _, called = call(task, "/v1/responses", {**body, "input": task["tool_question"], "tools": [tool]})
    return {
        "text": answer["output"][0]["content"][0]["text"],
        "answer_tokens": answer["usage"]["output_tokens"],
        "streamed": streamed(part["delta"] for part in parts if part["type"] == "response.output_text.delta"),
        "calls": [item for item in called["output"] if item["type"] == "function_call"],
    }


def messages(task: Task) -> Saw:
    """Anthropic's API."""
    asked = [{"role": "user", "content": task["question"]}]
    body = {"messages": asked, "max_tokens": task["tokens"], "model": task["models"]["chat"]}
    _, answer = call(task, "/v1/messages", body)
    answered = lines(task, "/v1/messages", {**body, "stream": True})
    parts = (json.loads(line[6:]) for line in answered if line.startswith("data: "))
    return {
        "text": answer["content"][0]["text"],
        "answer_tokens": answer["usage"]["output_tokens"],
        "streamed": streamed(part["delta"]["text"] for part in parts if part["type"] == "content_block_delta"),
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
            "messages": messages,
        }
    )

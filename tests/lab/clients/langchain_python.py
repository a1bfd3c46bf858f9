"""LangChain's ChatOllama, and OllamaEmbeddings of the same package. They list and show no models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ollama
from adapter import Saw, Task, run, streamed, timed
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_ollama import ChatOllama, OllamaEmbeddings


def chat_of(task: Task, model: str, key: str | None = None, **more: Any) -> ChatOllama:
    headers = {"Authorization": f"Bearer {key or task['key']}"}
    return ChatOllama(model=model, base_url=task["url"], client_kwargs={"headers": headers}, **more)


def chat(task: Task) -> Saw:
    answer = chat_of(task, task["models"]["chat"], num_predict=task["tokens"]).invoke(task["question"])
    usage = answer.usage_metadata or {}
    return {
        "text": answer.content,
        "model": answer.response_metadata["model"],
        "answer_tokens": usage["output_tokens"],
        "prompt_tokens": usage["input_tokens"],
    }


def stream(task: Task) -> Saw:
    chunks = chat_of(task, task["models"]["chat"], num_predict=task["tokens"]).stream(task["question"])
    return streamed(str(chunk.content) for chunk in chunks)


def tools(task: Task) -> Saw:
    model = chat_of(task, task["models"]["tools"], num_predict=task["tokens"]).bind_tools([task["tool"]])
    question = HumanMessage(task["tool_question"])
    first = model.invoke([question])
    results = [ToolMessage(task["tool_result"], tool_call_id=call["id"]) for call in first.tool_calls]
    answer = model.invoke([question, first, *results])
    return {
        "calls": [{"name": call["name"], "arguments": call["args"]} for call in first.tool_calls],
        "text": answer.content,
    }


def structured(task: Task) -> Saw:
    schema = {"title": "city", **task["schema"]}
    model = chat_of(task, task["models"]["chat"]).with_structured_output(schema, method="json_schema")
    return {"value": model.invoke(task["question"])}


def images(task: Task) -> Saw:
    picture = {"type": "image_url", "image_url": f"data:image/png;base64,{task['image']}"}
    message = HumanMessage(content=[{"type": "text", "text": "What is this?"}, picture])
    answer = chat_of(task, task["models"]["images"], num_predict=task["tokens"]).invoke([message])
    return {"text": answer.content}


def embeddings(task: Task) -> Saw:
    headers = {"Authorization": f"Bearer {task['key']}"}
    model = OllamaEmbeddings(
        model=task["models"]["embeddings"], base_url=task["url"], client_kwargs={"headers": headers}
    )
    return {"vectors": model.embed_documents(["the sky", "a river"])}


def errors(task: Task) -> Saw:
    return {
        "unknown model": refused(lambda: chat_of(task, "nosuchmodel").invoke("x")),
        "wrong key": refused(lambda: chat_of(task, task["models"]["chat"], key="wrong").invoke("x")),
    }


def refused(action: Callable[[], object]) -> Saw:
    try:
        action()
    except ollama.ResponseError as error:
        return {"status": error.status_code, "message": error.error}
    return {"status": 200, "message": ""}


def cancel(task: Task) -> Saw:
    model = task["models"]["slow"]
    chunks = chat_of(task, model).stream(task["question"])
    pieces = [next(chunks) for _ in range(task["cancelled_after"])]
    chunks.close()  # type: ignore[attr-defined]
    after = timed(lambda: chat_of(task, model, num_predict=1).invoke(task["question"]))
    return {"pieces": len(pieces), "next_s": after}


if __name__ == "__main__":
    run(
        {
            "chat": chat,
            "stream": stream,
            "tools": tools,
            "structured output": structured,
            "images": images,
            "embeddings": embeddings,
            "errors": errors,
            "cancel": cancel,
        }
    )

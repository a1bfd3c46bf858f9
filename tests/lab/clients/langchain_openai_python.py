"""LangChain's ChatOpenAI. What its users write as `max_tokens` it sends as `max_completion_tokens`, or to /v1/responses
as `max_output_tokens`. It lists and shows no models."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import openai
from adapter import Saw, Task, run, streamed, timed
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings


def chat_of(task: Task, model: str, key: str | None = None, **more: Any) -> ChatOpenAI:
    return ChatOpenAI(model=model, base_url=f"{task['url']}/v1", api_key=key or task["key"], max_retries=0, **more)


def chat(task: Task) -> Saw:
    answer = chat_of(task, task["models"]["chat"], max_tokens=task["tokens"]).invoke(task["question"])
    usage = answer.usage_metadata or {}
    return {
        "text": answer.content,
        "model": answer.response_metadata["model_name"],
        "answer_tokens": usage["output_tokens"],
        "prompt_tokens": usage["input_tokens"],
    }


def stream(task: Task) -> Saw:
    chunks = chat_of(task, task["models"]["chat"], max_tokens=task["tokens"]).stream(task["question"])
    return streamed(str(chunk.content) for chunk in chunks)


def tools(task: Task) -> Saw:
    model = chat_of(task, task["models"]["tools"], max_tokens=task["tokens"]).bind_tools([task["tool"]])
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
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{task['image']}"}}
    message = HumanMessage(content=[{"type": "text", "text": "What is this?"}, picture])
    answer = chat_of(task, task["models"]["images"], max_tokens=task["tokens"]).invoke([message])
    return {"text": answer.content}


def embeddings(task: Task) -> Saw:
    # Without the check it sends texts rather than the tokens of a model of OpenAI's own.
    model = OpenAIEmbeddings(
        model=task["models"]["embeddings"],
        base_url=f"{task['url']}/v1",
        api_key=task["key"],
        check_embedding_ctx_length=False,
    )
    return {"vectors": model.embed_documents(["the sky", "a river"])}


def errors(task: Task) -> Saw:
    return {
        "unknown model": refused(lambda: chat_of(task, "nosuchmodel").invoke("x"), openai.NotFoundError),
        "wrong key": refused(
            lambda: chat_of(task, task["models"]["chat"], key="wrong").invoke("x"), openai.AuthenticationError
        ),
    }


def refused(action: Callable[[], object], expected: type[openai.APIStatusError]) -> Saw:
    try:
        action()
    except expected as error:
        body: Any = error.body
        return {"status": error.status_code, "message": body["message"]}
    return {"status": 200, "message": ""}


def cancel(task: Task) -> Saw:
    model = task["models"]["slow"]
    chunks = chat_of(task, model).stream(task["question"])
    # The first chunk of a stream may be one of LangChain's own, without a text.
    pieces = []
    while len(pieces) < task["cancelled_after"]:
        if text := next(chunks).content:
            pieces.append(text)
    chunks.close()  # type: ignore[attr-defined]
    after = timed(lambda: chat_of(task, model, max_tokens=1).invoke(task["question"]))
    return {"pieces": len(pieces), "next_s": after}


def bounded(task: Task) -> Saw:
    limit = task["few_tokens"]
    model = chat_of(task, task["models"]["chat"], max_tokens=limit, stream_usage=True)
    sent = model._get_request_payload([HumanMessage(task["question"])])
    whole = model.invoke(task["question"])
    chunks = list(model.stream(task["question"]))
    return {
        "sent": json.loads(json.dumps({name: sent[name] for name in sent if "tokens" in name})),
        "whole": counted(whole.usage_metadata, whole.response_metadata),
        "streamed": counted(
            next(chunk.usage_metadata for chunk in reversed(chunks) if chunk.usage_metadata),
            next(chunk.response_metadata for chunk in chunks if "finish_reason" in chunk.response_metadata),
        ),
    }


def counted(usage: Any, metadata: Any) -> Saw:
    return {"answer_tokens": usage["output_tokens"], "reason": metadata["finish_reason"]}


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
            "bounded": bounded,
        }
    )

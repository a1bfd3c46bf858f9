// OpenAI's official JavaScript client.

import OpenAI from "openai";
import { leave, run, streamed, timed } from "./adapter.js";

const clientOf = (task, apiKey = task.key) => new OpenAI({ baseURL: `${task.url}/v1`, apiKey, maxRetries: 0 });
const ask = (task) => [{ role: "user", content: task.question }];

async function refused(action) {
  try {
    await action();
  } catch (error) {
    // The client looks for OpenAI's {"error": {…}} and unpacks it.
    return { status: error.status, message: error.error.message };
  }
  return { status: 200, message: "" };
}

await run({
  async chat(task) {
    const answer = await clientOf(task).chat.completions.create({
      model: task.models.chat,
      messages: ask(task),
      max_tokens: task.tokens,
    });
    return {
      text: answer.choices[0].message.content,
      model: answer.model,
      answer_tokens: answer.usage.completion_tokens,
      prompt_tokens: answer.usage.prompt_tokens,
    };
  },
  async stream(task) {
    const chunks = await clientOf(task).chat.completions.create({
      model: task.models.chat,
      messages: ask(task),
      max_tokens: task.tokens,
      stream: true,
    });
    return streamed(chunks, (chunk) => chunk.choices[0]?.delta.content);
  },
  async tools(task) {
    const client = clientOf(task);
    const request = { model: task.models.tools, tools: [task.tool] };
    const messages = [{ role: "user", content: task.tool_question }];
    const first = (await client.chat.completions.create({ ...request, messages })).choices[0].message;
    const calls = first.tool_calls ?? [];
    messages.push(first, ...calls.map((call) => ({ role: "tool", tool_call_id: call.id, content: task.tool_result })));
    const answer = await client.chat.completions.create({ ...request, messages, max_tokens: task.tokens });
    return {
      calls: calls.map((call) => ({ name: call.function.name, arguments: JSON.parse(call.function.arguments) })),
      text: answer.choices[0].message.content,
    };
  },
  async "structured output"(task) {
    const answer = await clientOf(task).chat.completions.create({
      model: task.models.chat,
      messages: ask(task),
      response_format: { type: "json_schema", json_schema: { name: "city", schema: task.schema, strict: true } },
    });
    return { value: JSON.parse(answer.choices[0].message.content) };
  },
  async images(task) {
    const picture = { type: "image_url", image_url: { url: `data:image/png;base64,${task.image}` } };
    const answer = await clientOf(task).chat.completions.create({
      messages: [{ role: "user", content: [{ type: "text", text: "What is this?" }, picture] }],
      max_tokens: task.tokens,
      model: task.models.images,
    });
    return { text: answer.choices[0].message.content };
  },
  async embeddings(task) {
    const answer = await clientOf(task).embeddings.create({
      model: task.models.embeddings,
      input: ["the sky", "a river"],
    });
    return { vectors: answer.data.map((entry) => entry.embedding) };
  },
  async list(task) {
    const models = [];
    for await (const entry of await clientOf(task).models.list()) models.push(entry.id);
    return { models };
  },
  async show(task) {
    return { shown: [(await clientOf(task).models.retrieve(task.models.chat)).id] };
  },
  async errors(task) {
    const client = clientOf(task);
    const messages = ask(task);
    return {
      "unknown model": await refused(() => client.chat.completions.create({ model: "nosuchmodel", messages })),
      "wrong key": await refused(() =>
        clientOf(task, "wrong").chat.completions.create({ model: task.models.chat, messages }),
      ),
      "no model": await refused(() => client.chat.completions.create({ messages })),
    };
  },
  async cancel(task) {
    const client = clientOf(task);
    const request = { model: task.models.slow, messages: ask(task) };
    const chunks = await client.chat.completions.create({ ...request, stream: true });
    const pieces = await leave(chunks, task.cancelled_after);
    const next_s = await timed(() => client.chat.completions.create({ ...request, max_tokens: 1 }));
    return { pieces, next_s };
  },
  async responses(task) {
    const client = clientOf(task);
    const request = { model: task.models.tools, input: task.question, max_output_tokens: task.tokens };
    const answer = await client.responses.create(request);
    const events = await client.responses.create({ ...request, stream: true });
    const pieces = await streamed(events, (event) => event.type === "response.output_text.delta" && event.delta);
    const called = await client.responses.create({
      model: task.models.tools,
      input: task.tool_question,
      tools: [{ type: "function", strict: false, ...task.tool.function }],
    });
    const calls = called.output.filter((item) => item.type === "function_call");
    return {
      text: answer.output_text,
      answer_tokens: answer.usage.output_tokens,
      streamed: pieces,
      calls: calls.map((call) => ({ name: call.name, arguments: JSON.parse(call.arguments) })),
    };
  },
});

// The official JavaScript client of Ollama.

import { Ollama } from "ollama";
import { run, streamed, timed } from "./adapter.js";

const clientOf = (task, key = task.key) => new Ollama({ host: task.url, headers: { Authorization: `Bearer ${key}` } });
const ask = (task) => [{ role: "user", content: task.question }];

async function refused(action) {
  try {
    await action();
  } catch (error) {
    return { status: error.status_code, message: error.error };
  }
  return { status: 200, message: "" };
}

await run({
  async chat(task) {
    const answer = await clientOf(task).chat({
      model: task.models.chat,
      messages: ask(task),
      options: { num_predict: task.tokens },
    });
    return {
      text: answer.message.content,
      model: answer.model,
      answer_tokens: answer.eval_count,
      prompt_tokens: answer.prompt_eval_count,
    };
  },
  async stream(task) {
    const parts = await clientOf(task).chat({
      model: task.models.chat,
      messages: ask(task),
      stream: true,
      options: { num_predict: task.tokens },
    });
    return streamed(parts, (part) => part.message.content);
  },
  async tools(task) {
    const client = clientOf(task);
    const request = { model: task.models.tools, tools: [task.tool] };
    const messages = [{ role: "user", content: task.tool_question }];
    const first = await client.chat({ ...request, messages });
    messages.push(first.message, { role: "tool", content: task.tool_result, tool_name: "get_weather" });
    const answer = await client.chat({ ...request, messages, options: { num_predict: task.tokens } });
    const calls = (first.message.tool_calls ?? []).map((call) => call.function);
    return { calls: calls.map(({ name, arguments: given }) => ({ name, arguments: given })), text: answer.message.content };
  },
  async "structured output"(task) {
    const answer = await clientOf(task).chat({ model: task.models.chat, messages: ask(task), format: task.schema });
    return { value: JSON.parse(answer.message.content) };
  },
  async images(task) {
    const answer = await clientOf(task).chat({
      model: task.models.images,
      messages: [{ role: "user", content: "What is this?", images: [task.image] }],
      options: { num_predict: task.tokens },
    });
    return { text: answer.message.content };
  },
  async embeddings(task) {
    const answer = await clientOf(task).embed({ model: task.models.embeddings, input: ["the sky", "a river"] });
    return { vectors: answer.embeddings };
  },
  async list(task) {
    return { models: (await clientOf(task).list()).models.map((entry) => entry.name) };
  },
  async show(task) {
    const shown = await clientOf(task).show({ model: task.models.chat });
    return { shown: shown.capabilities.filter((item) => item === "completion") };
  },
  async errors(task) {
    const client = clientOf(task);
    const messages = ask(task);
    return {
      "unknown model": await refused(() => client.chat({ model: "nosuchmodel", messages })),
      "wrong key": await refused(() => clientOf(task, "wrong").chat({ model: task.models.chat, messages })),
      closed: await refused(() => client.pull({ model: task.models.chat })),
    };
  },
  async cancel(task) {
    const client = clientOf(task);
    const request = { model: task.models.slow, messages: ask(task) };
    const parts = await client.chat({ ...request, stream: true });
    let pieces = 0;
    for await (const part of parts) {
      if (++pieces === task.cancelled_after) break;
    }
    parts.abort();
    const next_s = await timed(() => client.chat({ ...request, options: { num_predict: 1 } }));
    return { pieces, next_s };
  },
});

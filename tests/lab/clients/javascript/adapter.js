// What the programs of the JavaScript clients share; the same protocol as adapter.py.

import { text } from "node:stream/consumers";

export async function run(scenarios) {
  const task = JSON.parse(await text(process.stdin));
  for (const [scenario, act] of Object.entries(scenarios)) {
    let line;
    try {
      line = { scenario, saw: await act(task) };
    } catch (error) {
      line = { scenario, failed: error.stack ?? String(error) };
    }
    process.stdout.write(JSON.stringify(line) + "\n");
  }
}

// The text of a stream, how many pieces it came in, and the seconds between the first and the last of them.
export async function streamed(parts, piece) {
  const arrived = [];
  for await (const part of parts) {
    const said = piece(part);
    if (said) arrived.push([performance.now(), said]);
  }
  return {
    text: arrived.map(([, said]) => said).join(""),
    pieces: arrived.length,
    span_s: arrived.length ? (arrived.at(-1)[0] - arrived[0][0]) / 1000 : 0,
  };
}

// Read so many parts of a stream and leave it.
export async function leave(parts, count) {
  let seen = 0;
  for await (const part of parts) {
    if (++seen === count) break;
  }
  return seen;
}

export async function timed(action) {
  const start = performance.now();
  await action();
  return (performance.now() - start) / 1000;
}

// An HTTP server with a lock per session: of all requests for one session, one is inside at a time, on any server.
// node examples/session-server.mjs sessions 8080, then: curl -d "How are you?" localhost:8080/chat

import { appendFile, mkdir } from "node:fs/promises";
import { createServer } from "node:http";
import path from "node:path";
import { text } from "node:stream/consumers";
import { setTimeout as delay } from "node:timers/promises";
import { isLockTimeoutError, withLock } from "session-write-lock";

const [folder, port = "8080"] = process.argv.slice(2);
await mkdir(folder, { recursive: true });

/** Stands for a model that needs some time. */
async function answer(question) {
  await delay(5);
  return `You said: ${question}`;
}

/** One turn. Nobody else's line can come between the question and its answer. */
function turn(session, question, signal) {
  const file = path.join(folder, `${session}.jsonl`);
  return withLock(file, { timeoutMs: 10_000, signal, label: "turn" }, async (lock) => {
    const write = (line) => appendFile(file, `${JSON.stringify(line)}\n`, { signal: lock.signal });
    await write({ question });
    const reply = await answer(question);
    await write({ reply });
    return reply;
  });
}

const server = createServer(async (request, response) => {
  // A client that goes away stops waiting; a turn that has begun is finished.
  const gone = new AbortController();
  response.on("close", () => gone.abort());
  try {
    const [, session] = /^\/(\w+)$/.exec(request.url) ?? [];
    if (!session) {
      response.writeHead(404).end("which session? POST /name\n");
      return;
    }
    response.end(`${await turn(session, await text(request), gone.signal)}\n`);
  } catch (error) {
    const status = isLockTimeoutError(error) ? 503 : 500;
    response.writeHead(status).end(`${error.message}\n`);
  }
});

server.listen(port, () => console.log(server.address().port));

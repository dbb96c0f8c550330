// A process that keeps a session, and its text in memory, until another process wants it. Each line of input is added.
// node examples/lock-for-life.mjs chat.json

import { readFile, rename, writeFile } from "node:fs/promises";
import { createInterface } from "node:readline";
import { lock } from "session-write-lock";

const file = process.argv[2];

/** The lock and what the file says; `undefined` while others may write. */
let session;

async function open() {
  const held = await lock(file, { label: "session" });
  session = { held, lines: await read() };
  // Another process waits. The session is closed after the tasks that were added before.
  held.wanted.addEventListener("abort", () => run(close), { once: true });
}

async function read() {
  try {
    return JSON.parse(await readFile(file, "utf8"));
  } catch (error) {
    if (error.code === "ENOENT") return [];
    throw error;
  }
}

async function close() {
  const { held } = session ?? {};
  session = undefined;
  await held?.release();
}

async function add(line) {
  if (!session) {
    await open();
  }
  const { held, lines } = session;
  lines.push(line);
  await writeFile(`${file}.new`, JSON.stringify(lines), { signal: held.signal });
  await rename(`${file}.new`, file);
  console.log(lines.length);
}

/** Tasks run one after the other. `run` adds one. */
let last = Promise.resolve();

function run(task) {
  last = last.then(task);
}

for await (const line of createInterface({ input: process.stdin })) {
  run(() => add(line));
}
run(close);
await last;

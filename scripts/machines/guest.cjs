// Runs in a virtual machine, started by `init`: does what the test asks for over the second serial port, a JSON
// object per line. `{ id, sh }`: a command. `{ id, actor, op, args }`: an operation of a process with the addon.
"use strict";

const { execFile, fork } = require("node:child_process");
const { createReadStream, createWriteStream } = require("node:fs");
const { createInterface } = require("node:readline");

const PORT = "/dev/ttyS1";
const answers = createWriteStream(PORT);
const answer = (id, message) => answers.write(`${JSON.stringify({ id, ...message })}\n`);

/** By name. */
const actors = new Map();

/** The process with this name; it is started with its first operation. */
function actor(name) {
  if (!actors.has(name)) {
    const process = fork("/actor.cjs", { stdio: ["ignore", "inherit", "inherit", "ipc"] });
    process.on("message", ({ id, ...message }) => answer(id, message));
    process.on("exit", () => actors.delete(name));
    actors.set(name, process);
  }
  return actors.get(name);
}

createInterface({ input: createReadStream(PORT) }).on("line", (line) => {
  const { id, sh, actor: name, ...operation } = JSON.parse(line);
  if (name !== undefined) {
    actor(name).send({ id, ...operation });
    return;
  }
  execFile("/bin/sh", ["-c", sh], (error, stdout, stderr) => {
    answer(id, error ? { error: { message: `${sh}: ${error.message}${stderr}` } } : { value: stdout.trim() });
  });
});
answer(0, { value: "ready" });

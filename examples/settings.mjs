// A command line that guards its settings: each change reads and writes the whole file under its lock.
// node examples/settings.mjs settings.json set theme dark

import { readFile, rename, writeFile } from "node:fs/promises";
import { isLockTimeoutError, withLock } from "session-write-lock";

const [file, command, key, value] = process.argv.slice(2);

async function read() {
  try {
    return JSON.parse(await readFile(file, "utf8"));
  } catch (error) {
    if (error.code === "ENOENT") return {};
    throw error;
  }
}

/** The new text gets its name when it is complete, so `get` needs no lock. */
async function write(settings) {
  await writeFile(`${file}.new`, `${JSON.stringify(settings, null, 2)}\n`);
  await rename(`${file}.new`, file);
}

/** The read is inside, too: nobody else can write between it and the write. */
function change(edit) {
  return withLock(file, { timeoutMs: 10_000, label: `settings ${command} ${key}` }, async () => {
    const settings = await read();
    edit(settings);
    await write(settings);
  });
}

const commands = {
  get: async () => console.log((await read())[key] ?? ""),
  set: () => change((settings) => (settings[key] = value)),
  add: () => change((settings) => (settings[key] = Number(settings[key] ?? 0) + Number(value ?? 1))),
};

try {
  await commands[command]();
} catch (error) {
  if (!isLockTimeoutError(error)) throw error;
  console.error(error.message);
  process.exitCode = 75; // EX_TEMPFAIL: try again later
}

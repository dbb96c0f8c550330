/** Names that a system may read in more than one way, and files that it protects. */

import { chmodSync, existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import { expect, test } from "vitest";

import { lock, tryLock } from "../index.js";
import { DEAD_RECORDS, temporaryFolder } from "./support.js";

// Win32 reads `aux.jsonl` as a device, and drops dots and spaces at the end of a name. Node and this package don't.
const ODD = ["aux.jsonl", "nul", "chat.jsonl.", "chat.jsonl ", "chat.jsonl"];

test.each(["plain", "foo.", "com1.d", "x".repeat(200)])("each odd name in the folder %s has a lock of its own", async (name) => {
  const folder = path.join(temporaryFolder(), name);
  mkdirSync(path.toNamespacedPath(folder));
  const locks = ODD.map((odd) => tryLock(path.join(folder, odd))!);
  expect(locks.every((held) => held.held)).toBe(true);
  const names = readdirSync(path.toNamespacedPath(folder)).filter((entry) => entry.endsWith(".lock"));
  expect(names.toSorted()).toEqual(ODD.map((odd) => `${odd}.lock`).toSorted());
  expect(tryLock(path.join(folder, "chat.jsonl."))).toBeNull();
  await Promise.all(locks.map((held) => held.release()));
  expect(readdirSync(path.toNamespacedPath(folder)).filter((entry) => entry.endsWith(".lock"))).toEqual([]);
});

test("a dead lock that is read-only is taken over, and goes", async () => {
  for (const record of Object.values(DEAD_RECORDS)) {
    const file = path.join(temporaryFolder(), "chat.jsonl");
    writeFileSync(`${file}.lock`, record);
    chmodSync(`${file}.lock`, 0o444);
    const held = await lock(file, { timeoutMs: 5_000 });
    expect(held.held).toBe(true);
    await held.release();
    expect(existsSync(`${file}.lock`)).toBe(false);
  }
});

test("a stream of a file (Windows) is refused; elsewhere the name is one like any other", async () => {
  const file = path.join(temporaryFolder(), "chat.jsonl::$DATA");
  if (process.platform === "win32") {
    await expect(lock(file)).rejects.toMatchObject({ code: "ERR_INVALID_ARG_VALUE" });
  } else {
    await (await lock(file)).release();
  }
});

/**
 * Folders whose file system proves less than a local disk, and that another machine, or another mount, uses too: a
 * waiter says so once for each folder, and so do `status` and `why`.
 */

import { writeFileSync } from "node:fs";
import path from "node:path";
import { expect } from "vitest";

import { lackFor, FILE_SYSTEMS, Mounts } from "./machines.js";
import { Agent, root, skipAloud, testWith, until } from "./support.js";

const mountTest = testWith("root", "mounts", "bindfs");

const CLI = path.join(root, "bin/session-write-lock.mjs");

/** Starts a program of the mount namespace as if it ran on another machine. */
async function onAnotherMachine(mounts: Mounts): Promise<Agent> {
  const bootId = path.join(mounts.scratch, "boot_id");
  writeFileSync(bootId, "11111111-2222-3333-4444-555555555555\n");
  const pretend = `mount --bind ${bootId} /proc/sys/kernel/random/boot_id && exec "$@"`;
  return Agent.start({ through: mounts.through("unshare", "-m", "sh", "-c", pretend, "sh") });
}

/** Waits in vain for two locks of one folder, one after the other. */
async function waitInVain(agent: Agent, sessionFiles: string[]): Promise<string[]> {
  const codes = [];
  for (const sessionFile of sessionFiles) {
    codes.push(
      await agent.run(async ({ lock }, sessionFile) => {
        try {
          await lock.acquireSessionWriteLock({ sessionFile, timeoutMs: 200 });
          return "acquired";
        } catch (error: any) {
          return error.code;
        }
      }, sessionFile),
    );
  }
  return codes;
}

const sharedWith = (agent: Agent, sessionFile: string) =>
  agent.run(async ({ lock }, sessionFile) => (await lock.inspectSessionLock(sessionFile))!.sharedWith, sessionFile);

const warnings = ({ stderr }: Agent) => stderr.match(/LOCK_SHARED_FOLDER/g)?.length ?? 0;

/** Both locks of a folder are held by `holder`, as it sees the folder; `waiter` waits for them, as it does. */
async function meet(holder: Agent, held: string, waiter: Agent, wanted: string) {
  const names = ["chat.jsonl", "other.jsonl"];
  const files = (folder: string) => names.map((name) => path.join(folder, name));
  for (const sessionFile of files(held)) {
    await holder.acquire({ sessionFile });
  }
  expect(await waitInVain(waiter, files(wanted))).toEqual(names.map(() => "OPENCLAW_SESSION_WRITE_LOCK_TIMEOUT"));
  const found = await sharedWith(waiter, files(wanted)[0]!);
  for (const sessionFile of files(held)) {
    await holder.release(sessionFile);
  }
  return found;
}

/** What the command line prints about the folder. */
function printed(mounts: Mounts, ...parameters: string[]): string {
  return mounts.run("sh", "-c", `"$@"; [ $? -le 1 ]`, "sh", process.execPath, CLI, ...parameters);
}

const withLocks = FILE_SYSTEMS["bindfs with locks"]!;
const lack = lackFor(withLocks);

const TITLE = "a lock of another machine on a FUSE mount is told once for the folder";
if (lack) {
  skipAloud(TITLE, lack);
} else {
  mountTest(TITLE, async () => {
    const mounts = await Mounts.start();
    await withLocks.mount(mounts);
    const [far, near] = [await onAnotherMachine(mounts), await mounts.agent()];
    expect(await meet(far, mounts.folder, near, mounts.folder)).toBe("other-machine");
    await until("it was told", () => warnings(near) > 0);
    expect(near.stderr).toMatch(`${mounts.folder}: Another machine holds a lock here`);
    expect(warnings(near)).toBe(1);

    await far.acquire({ sessionFile: mounts.sessionFile });
    expect(printed(mounts, "why", mounts.sessionFile)).toMatch("About the folder\n  Another machine holds a lock here");
    expect(printed(mounts, "status", mounts.folder)).toMatch("the folder is shared: `session-write-lock why ");
    expect(JSON.parse(printed(mounts, "status", "--json", mounts.folder))[0].sharedWith).toBe("other-machine");
  });

  mountTest("a lock of the same machine and mount is nothing to tell of", async () => {
    const mounts = await Mounts.start();
    await withLocks.mount(mounts);
    const [holder, waiter] = [await mounts.agent(), await mounts.agent()];
    expect(await meet(holder, mounts.folder, waiter, mounts.folder)).toBe(null);
    expect(warnings(waiter)).toBe(0);
    await holder.acquire({ sessionFile: mounts.sessionFile });
    expect(printed(mounts, "why", mounts.sessionFile)).not.toMatch("About the folder");
    const status = printed(mounts, "status", mounts.folder);
    expect(status).toMatch("1 held");
    expect(status).not.toMatch("the folder is shared");
  });
}

mountTest("a lock of another mount of the folder is told once", async () => {
  const mounts = await Mounts.start();
  const { upper } = mounts.layers();
  await mounts.serve("bindfs", "-f", upper, mounts.folder);
  const [beneath, above] = [await mounts.agent(), await mounts.agent()];
  expect(await meet(beneath, upper, above, mounts.folder)).toBe("other-mount");
  await until("it was told", () => warnings(above) > 0);
  expect(above.stderr).toMatch("through another mount of the folder");
  expect(warnings(above)).toBe(1);
  // On a local disk nothing is unclear.
  expect(await meet(above, mounts.folder, beneath, upper)).toBe(null);
  expect(warnings(beneath)).toBe(0);
});

mountTest("a local disk with a lock of another boot is nothing to tell of", async () => {
  const mounts = await Mounts.start();
  mounts.tmpfs();
  const [far, near] = [await onAnotherMachine(mounts), await mounts.agent()];
  expect(await meet(far, mounts.folder, near, mounts.folder)).toBe(null);
  expect(warnings(near)).toBe(0);
});

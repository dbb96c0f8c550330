/**
 * What `status` and `why` print for each kind of lock file, as a person sees it. The lock files are made by real
 * processes; the screens are in `screens/`. Numbers of processes and times are given names.
 */

import { execFileSync } from "node:child_process";
import { chmodSync, mkdirSync, readFileSync, symlinkSync, utimesSync, writeFileSync } from "node:fs";
import path from "node:path";
import { expect, onTestFinished, test } from "vitest";

import { getProcessStartTime } from "../index.js";
import { call, start } from "./program.js";
import { Agent, asAnotherUser, isOnFallback, newSession, root, testWith, until, untilAsleep } from "./support.js";

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

/** Above the highest number that Linux gives. */
const NOBODY = 4_194_305;

const CONTAINER = ["unshare", "-pfm", "--mount-proc"];

/** What `CONTAINER` starts is `unshare`'s child. */
function childOf(pid: number): number {
  return Number(readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8"));
}

interface Scene {
  session: ReturnType<typeof newSession>;
  /** The names by which numbers of processes are shown. */
  pids: Record<string, number>;
  /** Through what the command line is started. */
  through?: string[];
  /** What is done between the two calls. */
  beforeWhy?: () => void;
}

/** A session in a folder that every user may enter. */
function newScene(): Scene {
  const session = newSession();
  chmodSync(session.folder, 0o777);
  return { session, pids: {} };
}

/** Writes a lock file that nobody holds, so long ago. */
function leave(lockPath: string, record: object | string, agoMs = 0): void {
  writeFileSync(lockPath, typeof record === "string" ? record : JSON.stringify(record));
  const then = (Date.now() - agoMs) / 1_000;
  utimesSync(lockPath, then, then);
  chmodSync(lockPath, 0o644);
}

/** A little longer ago, so that it is still the same when it is looked at. */
function ago(ms: number): string {
  return new Date(Date.now() - ms - 2_000).toISOString();
}

// --- Pictures -----------------------------------------------------------------------------------

async function picture({ session, pids, through, beforeWhy }: Scene): Promise<string> {
  const options = { cwd: session.folder, through };
  const name = (text: string) => normal(text, session.folder, pids);
  const status = await call(["status"], options);
  beforeWhy?.();
  const why = await call(["why", "chat.jsonl"], options);
  return [
    "$ session-write-lock status",
    name(withoutCommands(status.stdout + status.stderr)).replace(/ {2,}/g, " | "),
    `exit status ${status.code}\n`,
    "$ session-write-lock why chat.jsonl",
    wrapAgain(name(why.stdout + why.stderr)),
    `exit status ${why.code}\n`,
  ].join("\n");
}

/** How much of a command line there is room for depends on the names of folders. */
function withoutCommands(table: string): string {
  return table.replace(/(\(node\)(?: \[.*\])?(?: and 1 more:)?) \/.*?(?= {2})/g, "$1 COMMAND");
}

/** What differs from one run to the next goes by a name. */
function normal(text: string, folder: string, pids: Record<string, number>): string {
  let named = text.replaceAll(folder, "/srv");
  for (const [name, pid] of Object.entries(pids)) {
    named = named.replaceAll(new RegExp(`\\b${pid}\\b`, "g"), name);
  }
  return named
    .replaceAll(process.execPath, "node")
    .replaceAll(`${root}/__test__/fixtures/`, "")
    .replaceAll(`${root}/bin/`, "")
    .replace(/ on \d{4}-\d\d-\d\d\s+at\s+\d\d:\d\d:\d\d\s+UTC/g, " on DAY at TIME UTC")
    .replace(/(?<!within\s+)\b(\d+ min )?\d+(\.\d+)? m?s(?=\s{2,}|\s+ago|\s+old|[,.:])/g, "AGE");
}

/** Where lines break depends on the names of folders and the length of numbers. */
function wrapAgain(story: string): string {
  const paragraphs = story.trimEnd().split("\n\n").map((paragraph, number) => {
    const [first, ...others] = paragraph.split("\n");
    const [title, text] = number === 0 ? ["", [first, ...others]] : [`${first}\n`, others];
    const words = text.map((line) => line!.trim()).join(" ");
    const margin = number === 0 ? "" : "  ";
    return title + words.replace(/(.{1,90})(?: |$)/g, `${margin}$1\n`).trimEnd();
  });
  return `${paragraphs.join("\n\n")}\n`;
}

function show(name: string, scene: Scene): Promise<void> {
  return picture(scene).then((text) => expect(text).toMatchFileSnapshot(`screens/${name}.txt`));
}

// --- Held ---------------------------------------------------------------------------------------

test("held by a flock", async () => {
  const scene = newScene();
  const holder = await Agent.start();
  await holder.acquire({ sessionFile: scene.session.sessionFile });
  await show("held-by-flock", { ...scene, pids: { HOLDER: holder.pid } });
});

test("held with a label", async () => {
  const scene = newScene();
  const holder = await Agent.start();
  await holder.acquire({ sessionFile: scene.session.sessionFile, label: "nightly \x1b[31mbackup" });
  await show("held-with-label", { ...scene, pids: { HOLDER: holder.pid } });
});

test("held for longer than its own limit", async () => {
  const scene = newScene();
  const { sessionFile, lockPath } = scene.session;
  const holder = await Agent.start();
  await holder.acquire({ sessionFile, maxHoldMs: MINUTE });
  await holder.run(
    ({ require }, lockPath, createdAt) => {
      const fs = require("node:fs");
      const record = { ...JSON.parse(fs.readFileSync(lockPath, "utf8")), createdAt };
      fs.writeFileSync(lockPath, JSON.stringify(record));
    },
    lockPath,
    ago(3 * HOUR + 5 * MINUTE),
  );
  await show("held-too-long", { ...scene, pids: { HOLDER: holder.pid } });
});

test("held by an older process, which has the file open", async () => {
  const scene = newScene();
  const holder = await Agent.start();
  await holder.acquireAsTypeScript({ sessionFile: scene.session.sessionFile });
  await show("held-by-older-process", { ...scene, pids: { HOLDER: holder.pid } });
});

test("held by a child that has inherited it", async () => {
  const scene = newScene();
  const run = start(["run", "chat.jsonl", "sh", "-c", "echo $$; exec sleep 60"], { cwd: scene.session.folder });
  await run.printed("\n");
  const child = Number(run.stdout);
  onTestFinished(() => void process.kill(child, "SIGKILL"));
  const pids = { CHILD: child, PARENT: run.process.pid! };
  await show("held-by-run", { ...scene, pids });
  run.kill("SIGKILL");
  await until("it is gone", () => run.process.signalCode !== null);
  await show("held-by-child", { ...scene, pids });
});

test.skipIf(isOnFallback)("held, with waiters", async () => {
  const scene = newScene();
  const { sessionFile } = scene.session;
  const agents = await Promise.all([Agent.start(), Agent.start(), Agent.start()]);
  const [holder, first, second] = agents as [Agent, Agent, Agent];
  await holder.acquire({ sessionFile });
  const waits = [];
  for (const waiter of [first, second]) {
    waits.push(waiter.acquire({ sessionFile, timeoutMs: Infinity }));
    await untilAsleep(waiter.pid);
  }
  await show("held-with-waiters", { ...scene, pids: { HOLDER: holder.pid, FIRST: first.pid, SECOND: second.pid } });
  await holder.kill();
  await waits[0];
  await first.kill();
  await waits[1];
});

testWith("pid namespaces")("held in another container, seen from the host", async () => {
  const scene = newScene();
  const holder = await Agent.start({ through: CONTAINER });
  await holder.acquire({ sessionFile: scene.session.sessionFile });
  await show("held-in-container", { ...scene, pids: { HOLDER: childOf(holder.pid) } });
});

testWith("pid namespaces")("held by an older process in another container, seen from the host", async () => {
  const scene = newScene();
  const holder = await Agent.start({ through: CONTAINER });
  await holder.acquireAsTypeScript({ sessionFile: scene.session.sessionFile });
  await show("held-by-older-process-in-container", { ...scene, pids: { HOLDER: childOf(holder.pid) } });
});

testWith("pid namespaces")("held outside, seen from a container", async () => {
  const scene = newScene();
  const holder = await Agent.start();
  await holder.acquire({ sessionFile: scene.session.sessionFile });
  await show("held-outside-container", { ...scene, pids: { HOLDER: holder.pid }, through: CONTAINER });
});

testWith("another user")("held by another user, seen by root", async () => {
  const scene = newScene();
  const holder = await Agent.start({ through: asAnotherUser });
  await holder.acquire({ sessionFile: scene.session.sessionFile });
  await show("held-by-other-user", { ...scene, pids: { HOLDER: holder.pid } });
});

// --- Dead ---------------------------------------------------------------------------------------

test("dead: the holder was killed", async () => {
  const scene = newScene();
  const holder = await Agent.start();
  await holder.acquire({ sessionFile: scene.session.sessionFile });
  await holder.kill();
  await show("dead-killed", { ...scene, pids: { HOLDER: holder.pid } });
});

test("dead: no process has the number", async () => {
  const scene = newScene();
  leave(scene.session.lockPath, { pid: NOBODY, createdAt: ago(3 * DAY) });
  await show("dead-pid", scene);
});

test("dead: the number was given again", async () => {
  const scene = newScene();
  const other = await Agent.start();
  const starttime = getProcessStartTime(other.pid)! - 1;
  leave(scene.session.lockPath, { pid: other.pid, starttime, comm: "node", createdAt: ago(30 * HOUR) });
  await show("dead-recycled-pid", { ...scene, pids: { OTHER: other.pid } });
});

testWith("pid namespaces")("dead: the number is now that of the process that looks", async () => {
  const scene = newScene();
  leave(scene.session.lockPath, { pid: 1, comm: "node", createdAt: ago(HOUR) });
  await show("dead-orphan", { ...scene, through: CONTAINER });
});

test("dead: from before a restart", async () => {
  const scene = newScene();
  const other = await Agent.start();
  leave(scene.session.lockPath, { pid: other.pid, comm: "node", bootId: "another", createdAt: ago(2 * DAY) });
  await show("dead-other-boot", { ...scene, pids: { OTHER: other.pid } });
});

test("dead: torn, and long ago", async () => {
  const scene = newScene();
  leave(scene.session.lockPath, '{ "pid": 12', HOUR);
  await show("dead-torn", scene);
});

testWith("another user")("dead: too old, where only age can tell", async () => {
  const scene = newScene();
  const other = await Agent.start();
  leave(scene.session.lockPath, { pid: other.pid, createdAt: new Date(Date.now() + HOUR).toISOString() }, HOUR);
  await show("dead-too-old", { ...scene, pids: { OTHER: other.pid }, through: asAnotherUser });
});

// --- Unknown ------------------------------------------------------------------------------------

test("unknown: empty, and just made", async () => {
  const scene = newScene();
  const makeNew = () => writeFileSync(scene.session.lockPath, "");
  makeNew();
  await show("unknown-empty", { ...scene, beforeWhy: makeNew });
});

test("unknown: of a process that runs, but doesn't have the file open", async () => {
  const scene = newScene();
  const other = await Agent.start();
  leave(scene.session.lockPath, { pid: other.pid, createdAt: new Date(Date.now() + HOUR).toISOString() });
  await show("unknown-closed", { ...scene, pids: { OTHER: other.pid } });
});

testWith("another user")("unknown: of a process that started after the file was written", async () => {
  const scene = newScene();
  const other = await Agent.start();
  leave(scene.session.lockPath, { pid: other.pid, comm: "node", createdAt: ago(5 * MINUTE) });
  await show("unknown-started-later", { ...scene, pids: { OTHER: other.pid }, through: asAnotherUser });
});

test("unknown: of a container that is gone", async () => {
  const scene = newScene();
  leave(scene.session.lockPath, { pid: 7, pidNamespace: 1, comm: "node", createdAt: ago(5 * MINUTE) });
  await show("unknown-other-namespace", scene);
});

testWith("another user")("unknown: a file that may not be read", async () => {
  const scene = newScene();
  leave(scene.session.lockPath, { pid: NOBODY, createdAt: ago(HOUR) });
  chmodSync(scene.session.lockPath, 0o600);
  await show("unknown-unreadable", { ...scene, through: asAnotherUser });
});

// --- No lock file -------------------------------------------------------------------------------

test("not a file: a named pipe", async () => {
  const scene = newScene();
  execFileSync("mkfifo", [scene.session.lockPath]);
  await show("no-file-fifo", scene);
});

test("not a file: a symbolic link", async () => {
  const scene = newScene();
  symlinkSync("elsewhere", scene.session.lockPath);
  await show("no-file-symlink", scene);
});

test("not a file: a folder", async () => {
  const scene = newScene();
  mkdirSync(scene.session.lockPath);
  await show("no-file-folder", scene);
});

test("no lock at all", async () => {
  const scene = newScene();
  writeFileSync(scene.session.sessionFile, "");
  await show("not-locked", scene);
});

test("no such session", async () => {
  const scene = newScene();
  writeFileSync(path.join(scene.session.folder, "chats.jsonl"), "");
  await show("no-such-session", scene);
});

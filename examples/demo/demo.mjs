/**
 * `npm run demo`: what the lock is for, on real processes and a real transcript. It prints what
 * happened and how long each step took, and exits with 1 if any claim fails.
 */

import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";

import {
  acquireSessionWriteLock,
  getProcessCommForPid,
  getProcessStartTime,
  isAlive,
} from "../../index.js";

const here = fileURLToPath(new URL(".", import.meta.url));

/** Set in the copy of this script that runs in a pid namespace of its own. */
const IN_NAMESPACE = "SESSION_WRITE_LOCK_DEMO_IN_NAMESPACE";

const folder = mkdtempSync(path.join(tmpdir(), "session-write-lock-demo-"));
const sessionFile = path.join(folder, "chat.jsonl");
const lockPath = `${sessionFile}.lock`;
const children = [];
let failures = 0;

/** Runs a step, says how long it took and whether its claim held. */
async function step(claim, run) {
  const started = performance.now();
  let verdict = "ok  ";
  let detail;
  try {
    detail = await run();
  } catch (error) {
    verdict = "FAIL";
    detail = error.message;
    failures += 1;
  }
  const took = `${(performance.now() - started).toFixed(1)} ms`.padStart(10);
  console.log(`${verdict} ${took}  ${claim}${detail ? `\n${" ".repeat(17)}${detail}` : ""}`);
}

function must(condition, otherwise) {
  if (!condition) {
    throw new Error(otherwise);
  }
}

/** Starts a gateway and waits until it is there. */
async function startGateway() {
  const child = spawn(process.execPath, [path.join(here, "gateway.mjs"), sessionFile], {
    stdio: ["ignore", "inherit", "inherit", "ipc"],
  });
  children.push(child);
  await reply(child);
  return child;
}

async function reply(child) {
  const [message] = await once(child, "message");
  must(!message.error, `${message.code}: ${message.error}`);
}

async function tell(child, command, argument) {
  child.send([command, argument]);
  await reply(child);
}

async function kill(child) {
  child.kill("SIGKILL");
  await once(child, "exit");
}

/** Takes the lock and gives it back; says how long that took. */
async function takeAndRelease(timeoutMs = 10_000) {
  const started = performance.now();
  const lock = await acquireSessionWriteLock({ sessionFile, timeoutMs });
  const took = performance.now() - started;
  await lock.release();
  return `taken over after ${took.toFixed(1)} ms`;
}

/** Starts gateways until one has the number `pid`; the kernel gives the next free one. */
async function startGatewayAs(pid) {
  for (let tries = 0; tries < 20; tries += 1) {
    writeFileSync("/proc/sys/kernel/ns_last_pid", String(pid - 1));
    const child = await startGateway();
    if (child.pid === pid) {
      return child;
    }
    await kill(child);
  }
  throw new Error(`pid ${pid} was not given again`);
}

/** Several gateways add messages to an empty transcript at the same time. Returns the messages that are left. */
async function addMessages(gateways, command, count) {
  writeFileSync(sessionFile, "[]");
  await Promise.all(gateways.map((gateway) => tell(gateway, command, count)));
  return JSON.parse(readFileSync(sessionFile, "utf8"));
}

async function main() {
  console.log(`session: ${sessionFile}\n`);

  const gateways = await Promise.all(Array.from({ length: 4 }, startGateway));
  const [first, second, ...others] = gateways;

  await step("four gateways read a transcript, add a message and write it back, and no message is lost", async () => {
    const each = 250;
    const sent = each * gateways.length;
    const unlocked = await addMessages(gateways, "add-unlocked", each);
    const locked = await addMessages(gateways, "add", each);
    const outcome = `${locked.length} of ${sent} left; without the lock: ${unlocked.length} of ${sent} left`;
    must(locked.length === sent, `${outcome}: the lock does not exclude`);
    must(unlocked.length < sent, `${outcome}: the gateways never met, so this shows nothing`);
    for (const { pid } of gateways) {
      const own = locked.filter(({ gateway }) => gateway === pid);
      must(own.every(({ number }, index) => number === index), `messages of ${pid} are out of order`);
    }
    return outcome;
  });

  await Promise.all(others.map(kill));

  await step("a live holder that changed its process.title keeps its lock", async () => {
    await tell(first, "hold");
    await tell(first, "title", "some other name");
    const refused = await acquireSessionWriteLock({ sessionFile, timeoutMs: 200, staleMs: 1 }).then(
      () => undefined,
      (error) => error,
    );
    must(refused?.code === "OPENCLAW_SESSION_WRITE_LOCK_TIMEOUT", "the live lock was taken");
    must(refused.holder.pid === first.pid, "another holder than expected");
    return refused.message;
  });

  await step("its holder is SIGKILLed: the lock file stays, and the other gateway takes over", async () => {
    await kill(first);
    must(statSync(lockPath).isFile(), "no lock file was left behind");
    await tell(second, "add", 1);
    const last = JSON.parse(readFileSync(sessionFile, "utf8")).at(-1);
    must(last.gateway === second.pid, "the other gateway did not write");
    return `left behind by pid ${first.pid}, taken over by pid ${second.pid}`;
  });

  await kill(second);
  await reusedPids();
}

/** The steps that need a pid of choice run in a pid namespace, where the next pid can be set. */
async function reusedPids() {
  const unshare = [["-pfm", "--mount-proc"], ["-Urpfm", "--mount-proc"]].find(
    (flags) => spawnSync("unshare", [...flags, "true"], { stdio: "ignore" }).status === 0,
  );
  if (!unshare) {
    console.log("SKIPPED: reused pids need pid namespaces (unshare, as root or with user namespaces)");
    return;
  }
  const child = spawn("unshare", [...unshare, process.execPath, fileURLToPath(import.meta.url)], {
    stdio: "inherit",
    env: { ...process.env, [IN_NAMESPACE]: "1" },
  });
  const [code] = await once(child, "exit");
  failures += code === 0 ? 0 : 1;
}

async function inNamespace() {
  const holder = await startGateway();
  const { pid } = holder;
  await tell(holder, "hold");
  await kill(holder);
  const stranger = await startGatewayAs(pid);

  await step(`a dead holder's pid (${pid}) is given to another node: its lock is reclaimed`, async () => {
    must(isAlive(pid, "node"), "the pid is not another node's");
    must(JSON.parse(readFileSync(lockPath, "utf8")).pid === pid, "the record names another pid");
    return takeAndRelease();
  });

  await step("the same for a file with nothing but pid and createdAt, as the older module wrote it", async () => {
    const then = new Date(Date.now() - 60_000);
    writeFileSync(lockPath, JSON.stringify({ pid, createdAt: then.toISOString() }, null, 2));
    utimesSync(lockPath, then, then);
    return `${await takeAndRelease()}; pid ${pid} is ${getProcessCommForPid(pid)}, alive`;
  });

  await step("and for one with the start time of the process that had the number before", async () => {
    const createdAt = new Date().toISOString();
    const starttime = getProcessStartTime(pid) - 1;
    writeFileSync(lockPath, JSON.stringify({ pid, createdAt, starttime, comm: "node" }, null, 2));
    return takeAndRelease();
  });

  await kill(stranger);
}

try {
  await (process.env[IN_NAMESPACE] ? inNamespace() : main());
} finally {
  for (const child of children) {
    child.kill("SIGKILL");
  }
  rmSync(folder, { recursive: true, force: true });
}
if (!process.env[IN_NAMESPACE]) {
  console.log(failures === 0 ? "\nevery claim held" : `\n${failures} failed`);
}
process.exitCode = failures === 0 ? 0 : 1;

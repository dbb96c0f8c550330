/**
 * The example gateway as it runs: processes with transcripts, messages and signals. Several at one
 * transcript, restarted inside their process, drained, killed; and nothing is lost or left behind.
 */

import { spawn, spawnSync } from "node:child_process";
import { appendFileSync, existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { once } from "node:events";
import path from "node:path";
import { createInterface } from "node:readline";
import { beforeAll, describe, expect, onTestFinished, test } from "vitest";

import type { Entry } from "../examples/gateway/transcript.js";
import { Agent, root, temporaryFolder, until, untilAsleep, waitModes } from "./support.js";

/** Compiled as `npm run gateway` does it. */
beforeAll(() => {
  const args = ["node_modules/typescript/bin/tsc", "--project", "examples/gateway"];
  const { status, stdout } = spawnSync(process.execPath, args, { cwd: root, encoding: "utf8" });
  expect(status, stdout).toBe(0);
}, 60_000);

interface Event {
  event: string;
  session?: string;
  role?: string;
  [detail: string]: unknown;
}

/** A gateway that runs. */
class Gateway {
  readonly #process;
  readonly #exit: Promise<number | NodeJS.Signals>;
  /** What it has told so far. */
  readonly events: Event[] = [];
  stderr = "";
  #read = 0;

  private constructor(args: string[], env: NodeJS.ProcessEnv) {
    const script = path.join(root, ".cache/gateway/gateway.js");
    this.#process = spawn(process.execPath, [script, ...args], { env: { ...process.env, ...env } });
    this.#process.stderr.on("data", (data) => {
      this.stderr += data;
    });
    const lines = createInterface({ input: this.#process.stdout });
    lines.on("line", (line) => this.events.push(JSON.parse(line)));
    this.#exit = new Promise((resolve) => {
      this.#process.on("close", (code, signal) => resolve(code ?? signal!));
    });
  }

  /** Starts one, with what it finds in its stdin already, and waits until it is there. */
  static async start(
    args: string | string[],
    env: NodeJS.ProcessEnv = {},
    ...messages: object[]
  ): Promise<Gateway> {
    const gateway = new Gateway([args].flat(), env);
    onTestFinished(() => void gateway.#process.kill("SIGKILL"));
    messages.forEach((message) => gateway.send(message));
    await gateway.told("started");
    return gateway;
  }

  get pid(): number {
    return this.#process.pid!;
  }

  /** Has it write, and doesn't wait for that. */
  send(message: object | string): void {
    const line = typeof message === "string" ? message : JSON.stringify(message);
    this.#process.stdin.write(`${line}\n`);
  }

  /** The next thing of this kind that it tells. */
  async told(event: string): Promise<Event> {
    let index = -1;
    await until(`it has told "${event}"; stderr: ${this.stderr}`, () => {
      index = this.events.findIndex((told, n) => n >= this.#read && told.event === event);
      return index >= 0 || this.#process.exitCode !== null;
    });
    expect(this.events[index], `it ended without telling "${event}": ${this.stderr}`).toBeDefined();
    this.#read = index + 1;
    return this.events[index]!;
  }

  /** Has it write, and waits until it has. */
  async say(role: "user" | "assistant", content: string, session = "chat"): Promise<void> {
    this.send({ session, [role]: content });
    expect(await this.told("written")).toMatchObject({ session, role });
  }

  signal(signal: NodeJS.Signals): void {
    this.#process.kill(signal);
  }

  /** Lets it end, and says how it did. */
  async end(signal?: NodeJS.Signals): Promise<number | NodeJS.Signals> {
    if (signal) {
      this.signal(signal);
    } else {
      this.#process.stdin.end();
    }
    return this.#exit;
  }

  count(event: string): number {
    return this.events.filter((told) => told.event === event).length;
  }
}

/** The messages of a transcript, which must be whole: one header, and each entry after the last. */
function readTranscript(folder: string, session = "chat"): string[] {
  const text = readFileSync(path.join(folder, `${session}.jsonl`), "utf8");
  expect(text.endsWith("\n")).toBe(true);
  const [header, ...entries] = text.trimEnd().split("\n").map((line) => JSON.parse(line));
  expect(header).toMatchObject({ type: "session", version: 1 });
  let parentId: string | null = null;
  for (const entry of entries as Entry[]) {
    expect(entry).toMatchObject({ type: "message", parentId });
    parentId = entry.id;
  }
  return entries.map(({ message }: Entry) => `${message.role}: ${message.content}`);
}

function expectOnlyTranscripts(folder: string): void {
  expect(readdirSync(folder).filter((name) => !name.endsWith(".jsonl"))).toEqual([]);
}

const lockOf = (folder: string, session = "chat") => path.join(folder, `${session}.jsonl.lock`);
const released = (folder: string, session?: string) =>
  until("the lock is released", () => !existsSync(lockOf(folder, session)));
const holderOf = (folder: string) => JSON.parse(readFileSync(lockOf(folder), "utf8")).pid;

/** Has a gateway want the lock, and waits until it sleeps in front of it. */
async function queueUp(gateway: Gateway, ...messages: object[]): Promise<void> {
  for (const message of messages) {
    gateway.send({ session: "chat", ...message });
  }
  await untilAsleep(gateway.pid);
}

describe("a gateway", () => {
  test("holds the lock from the question to the answer, and no longer", async () => {
    const folder = temporaryFolder();
    const gateway = await Gateway.start(folder);
    await gateway.say("user", "How are you?");
    expect(holderOf(folder)).toBe(gateway.pid);
    await gateway.say("assistant", "Fine.");
    await released(folder);
    expect(await gateway.end()).toBe(0);
    expect(readTranscript(folder)).toEqual(["user: How are you?", "assistant: Fine."]);
    expectOnlyTranscripts(folder);
    expect(gateway.stderr).toBe("");
  });

  test("says what it was told that is no message, and goes on", async () => {
    const folder = temporaryFolder();
    const gateway = await Gateway.start(folder);
    const wrong = ["", "no JSON", "null", "{}", '{"session":"../x","user":"a"}', '{"session":"x","user":1}'];
    for (const line of wrong) {
      gateway.send(line);
      expect(await gateway.told("rejected")).toMatchObject({ line });
    }
    await gateway.say("user", "a");
    expect(await gateway.end()).toBe(0);
    expect(readTranscript(folder)).toEqual(["user: a"]);
  });

  test("writes after the last whole line, if somebody died within one", async () => {
    const folder = temporaryFolder();
    const gateway = await Gateway.start(folder);
    // Longer than what is read of the end at first, so that it has to look further back.
    const long = "x".repeat(20_000);
    await gateway.say("user", long);
    for (const torn of ['{"type":"message","id":"', `{"type":"message","text":"${long}`]) {
      appendFileSync(path.join(folder, "chat.jsonl"), torn);
      await gateway.say("assistant", "b");
    }
    writeFileSync(path.join(folder, "other.jsonl"), '{"type":"ses');
    await gateway.say("user", "c", "other");
    expect(await gateway.end()).toBe(0);
    expect(readTranscript(folder)).toEqual([`user: ${long}`, "assistant: b", "assistant: b"]);
    expect(readTranscript(folder, "other")).toEqual(["user: c"]);
  });

  test("says what it could not write, and goes on", async () => {
    const folder = temporaryFolder();
    const holder = await Gateway.start(folder);
    await holder.say("user", "a");
    const config = path.join(temporaryFolder(), "config.json");
    writeFileSync(config, '{"session":{"writeLock":{"acquireTimeoutMs":50}}}');
    const gateway = await Gateway.start([folder, config]);
    gateway.send({ session: "chat", user: "b" });
    expect(await gateway.told("failed")).toMatchObject({
      session: "chat",
      role: "user",
      code: "OPENCLAW_SESSION_WRITE_LOCK_TIMEOUT",
      message: expect.stringContaining(`session file locked (timeout 50ms): pid=${holder.pid} `),
    });
    await holder.say("assistant", "a");
    expect(await holder.end()).toBe(0);
    await gateway.say("user", "c");
    // It has lost a message, and doesn't say that all went well.
    expect(await gateway.end()).toBe(1);
    expect(readTranscript(folder)).toEqual(["user: a", "assistant: a", "user: c"]);
    expectOnlyTranscripts(folder);
  });

  test("writes on under a new lock, if the watchdog has released the one before", async () => {
    const folder = temporaryFolder();
    const env = { OPENCLAW_SESSION_WRITE_LOCK_MAX_HOLD_MS: "100" };
    const [slow, other] = [await Gateway.start(folder, env), await Gateway.start(folder)];
    await slow.say("user", "a");
    await other.say("user", "b");
    await other.say("assistant", "b");
    await slow.say("assistant", "a");
    expect(await slow.end()).toBe(0);
    expect(await other.end()).toBe(0);
    expect(readTranscript(folder)).toEqual(["user: a", "user: b", "assistant: b", "assistant: a"]);
    expect(slow.stderr).toMatch(/releasing lock held for \d+ms \(max=100ms\)/);
    expectOnlyTranscripts(folder);
  });
});

describe("gateways at one transcript", () => {
  const TURNS = 40;

  /** A gateway's whole conversation, sent at once. */
  function converse(gateway: Gateway, name: string): void {
    for (let turn = 0; turn < TURNS; turn += 1) {
      gateway.send({ session: "chat", user: `${name}${turn}`, assistant: `${name}${turn}` });
    }
  }

  function expectConversation(messages: string[], name: string): void {
    const turns = [...Array(TURNS).keys()].flatMap((turn) => [
      `user: ${name}${turn}`,
      `assistant: ${name}${turn}`,
    ]);
    expect(messages.filter((message) => message.includes(`: ${name}`))).toEqual(turns);
  }

  test("lose nothing, and no turn interrupts another", async () => {
    const folder = temporaryFolder();
    const names = ["a", "b", "c", "d"];
    const gateways = await Promise.all(names.map(() => Gateway.start(folder)));
    gateways.forEach((gateway, n) => converse(gateway, names[n]!));
    const ends = await Promise.all(gateways.map((gateway) => gateway.end()));
    expect(ends).toEqual([0, 0, 0, 0]);
    const messages = readTranscript(folder);
    expect(messages).toHaveLength(names.length * TURNS * 2);
    for (const name of names) {
      expectConversation(messages, name);
    }
    for (let n = 0; n < messages.length; n += 2) {
      expect(messages[n + 1]).toBe(messages[n]!.replace("user", "assistant"));
    }
    expectOnlyTranscripts(folder);
  });

  test("lose nothing while they are restarted again and again", async () => {
    const folder = temporaryFolder();
    const names = ["a", "b", "c"];
    const gateways = await Promise.all(names.map(() => Gateway.start(folder)));
    gateways.forEach((gateway, n) => converse(gateway, names[n]!));
    for (let round = 0; round < 5; round += 1) {
      for (const gateway of gateways) {
        gateway.signal("SIGUSR1");
        await gateway.told("restarted");
      }
    }
    expect(await Promise.all(gateways.map((gateway) => gateway.end()))).toEqual([0, 0, 0]);
    const messages = readTranscript(folder);
    expect(messages).toHaveLength(names.length * TURNS * 2);
    for (const name of names) {
      expectConversation(messages, name);
    }
    expectOnlyTranscripts(folder);
  });

  test("wait for one with the older module, and it for them", async () => {
    const folder = temporaryFolder();
    const sessionFile = path.join(folder, "chat.jsonl");
    const [older, gateway] = [await Agent.start(), await Gateway.start(folder, waitModes.events)];
    await older.acquireAsTypeScript({ sessionFile });
    await queueUp(gateway, { user: "a" });
    expect(holderOf(folder)).toBe(older.pid);
    await older.release(sessionFile);
    await gateway.told("written");
    const again = older.acquireAsTypeScript({ sessionFile });
    expect(holderOf(folder)).toBe(gateway.pid);
    await gateway.say("assistant", "a");
    await again;
    expect(holderOf(folder)).toBe(older.pid);
    await older.release(sessionFile);
    expect(await gateway.end()).toBe(0);
    expect(readTranscript(folder)).toEqual(["user: a", "assistant: a"]);
    expectOnlyTranscripts(folder);
  });
});

describe("SIGUSR1 restarts a gateway inside its process", () => {
  test("while it holds: its turn is interrupted, others get in, and it writes on under a new lock", async () => {
    const folder = temporaryFolder();
    const [gateway, other] = [
      await Gateway.start(folder),
      await Gateway.start(folder, waitModes.events),
    ];
    await gateway.say("user", "a");
    await queueUp(other, { user: "b" });
    gateway.signal("SIGUSR1");
    expect(await gateway.told("restarted")).toEqual({ event: "restarted", interrupted: ["chat"] });
    await other.told("written");
    expect(holderOf(folder)).toBe(other.pid);
    gateway.send({ session: "chat", assistant: "a" });
    await other.say("assistant", "b");
    await gateway.told("written");
    expect(await gateway.end()).toBe(0);
    expect(await other.end()).toBe(0);
    expect(readTranscript(folder)).toEqual(["user: a", "user: b", "assistant: b", "assistant: a"]);
    expectOnlyTranscripts(folder);
  });

  test("while it waits: it goes on waiting", async () => {
    const folder = temporaryFolder();
    const [holder, gateway] = [
      await Gateway.start(folder),
      await Gateway.start(folder, waitModes.events),
    ];
    await holder.say("user", "a");
    await queueUp(gateway, { user: "b" });
    gateway.signal("SIGUSR1");
    expect(await gateway.told("restarted")).toEqual({ event: "restarted", interrupted: [] });
    expect(gateway.count("written")).toBe(0);
    expect(holderOf(folder)).toBe(holder.pid);
    await holder.say("assistant", "a");
    await gateway.told("written");
    await gateway.say("assistant", "b");
    expect(await holder.end()).toBe(0);
    expect(await gateway.end()).toBe(0);
    expect(readTranscript(folder)).toEqual(["user: a", "assistant: a", "user: b", "assistant: b"]);
    expectOnlyTranscripts(folder);
  });

  test("as often as one likes, and it leaves its own locks to nobody's sweep", async () => {
    const folder = temporaryFolder();
    const gateway = await Gateway.start(folder);
    for (let round = 0; round < 10; round += 1) {
      await gateway.say("user", `${round}`);
      gateway.signal("SIGUSR1");
      expect(await gateway.told("restarted")).toMatchObject({ interrupted: ["chat"] });
      expect(existsSync(lockOf(folder))).toBe(false);
    }
    expect(gateway.count("cut-off")).toBe(0);
    expect(await gateway.end()).toBe(0);
    expect(readTranscript(folder)).toHaveLength(10);
  });
});

describe.each(["SIGTERM", "SIGINT"] as const)("%s drains a gateway", (signal) => {
  test("that waits: it writes what it has received, releases and exits with 0", async () => {
    const folder = temporaryFolder();
    const [holder, gateway] = [
      await Gateway.start(folder),
      await Gateway.start(folder, waitModes.events),
    ];
    await holder.say("user", "a");
    await queueUp(gateway, { user: "b", assistant: "b" }, { user: "c" });
    const ended = gateway.end(signal);
    // It neither gives up nor rushes in: the other one still holds.
    await holder.say("assistant", "a");
    expect(await ended).toBe(0);
    expect(await holder.end()).toBe(0);
    expect(gateway.events.slice(1)).toMatchObject([
      { event: "written", role: "user" },
      { event: "written", role: "assistant" },
      { event: "written", role: "user" },
      { event: "unanswered", session: "chat" },
      { event: "drained" },
    ]);
    const messages = ["user: a", "assistant: a", "user: b", "assistant: b", "user: c"];
    expect(readTranscript(folder)).toEqual(messages);
    expectOnlyTranscripts(folder);
  });

  test("in the middle of a turn: the lock goes, the question stays", async () => {
    const folder = temporaryFolder();
    const gateway = await Gateway.start(folder);
    await gateway.say("user", "a");
    expect(await gateway.end(signal)).toBe(0);
    expect(gateway.events.slice(2)).toEqual([
      { event: "unanswered", session: "chat" },
      { event: "drained" },
    ]);
    expect(readTranscript(folder)).toEqual(["user: a"]);
    expectOnlyTranscripts(folder);
  });

  test("in the middle of its writing: what it has received is written whole, in its order", async () => {
    const folder = temporaryFolder();
    const gateway = await Gateway.start(folder);
    const contents = [...Array(300).keys()].map(String);
    for (const content of contents) {
      gateway.send({ session: "chat", user: content, assistant: content });
    }
    await gateway.told("written");
    expect(await gateway.end(signal)).toBe(0);
    const messages = readTranscript(folder);
    const all = contents.flatMap((content) => [`user: ${content}`, `assistant: ${content}`]);
    expect(messages).toEqual(all.slice(0, messages.length));
    expect(messages).toHaveLength(gateway.count("written"));
    expect(messages.length % 2).toBe(0);
    expectOnlyTranscripts(folder);
  });
});

describe.each(["SIGTERM", "SIGINT"] as const)("npm run gateway passes %s on", (signal) => {
  test("to the gateway, which drains and ends; its stdout is JSON and nothing else", async () => {
    const folder = temporaryFolder();
    const npm = spawn("npm", ["run", "--silent", "gateway", "--", folder], { cwd: root });
    onTestFinished(() => void npm.kill("SIGKILL"));
    const lines: string[] = [];
    createInterface({ input: npm.stdout }).on("line", (line) => lines.push(line));
    let stderr = "";
    npm.stderr.on("data", (data) => (stderr += data));
    npm.stdin.write('{"session":"chat","user":"a"}\n');
    await until("it has written", () => lines.length >= 2 || npm.exitCode !== null, 150_000);
    expect(existsSync(lockOf(folder)), stderr).toBe(true);
    const gateway = holderOf(folder);
    npm.kill(signal);
    expect(await once(npm, "close")).toEqual([0, null]);
    expect(() => process.kill(gateway, 0)).toThrow("ESRCH");
    expect(lines.map((line) => JSON.parse(line).event)).toEqual(["started", "written", "unanswered", "drained"]);
    expect(readTranscript(folder)).toEqual(["user: a"]);
    expectOnlyTranscripts(folder);
  }, 180_000); // the set-up may build the addon
});

describe("after a SIGKILL", () => {
  test("the next gateway sweeps, and says which session was cut off", async () => {
    const folder = temporaryFolder();
    const killed = await Gateway.start(folder);
    await killed.say("user", "a");
    await killed.say("user", "b", "other");
    await killed.say("assistant", "b", "other");
    await released(folder, "other");
    expect(await killed.end("SIGKILL")).toBe("SIGKILL");
    expect(holderOf(folder)).toBe(killed.pid);

    // Enough before it to keep the sweep busy, and a message that must not come before the sweep.
    const others = [...Array(2_000).keys()].map((n) => `a${n}`);
    for (const session of others) {
      writeFileSync(lockOf(folder, session), readFileSync(lockOf(folder)));
    }
    const gateway = await Gateway.start(folder, {}, { session: "chat", assistant: "a" });
    const told = gateway.events.find(({ session }) => session === "chat");
    expect(told).toEqual({ event: "cut-off", session: "chat", reasons: ["dead-pid"] });
    expect(gateway.count("cut-off")).toBe(others.length + 1);
    expect(gateway.events[others.length + 1]).toEqual({ event: "started", pid: gateway.pid });
    await gateway.told("written");
    expect(await gateway.end()).toBe(0);
    expect(gateway.stderr).toContain(`removed stale session lock: ${lockOf(folder)} (`);
    expect(readTranscript(folder)).toEqual(["user: a", "assistant: a"]);
    expectOnlyTranscripts(folder);
  });

  test("a gateway that restarts inside its process sweeps as well", async () => {
    const folder = temporaryFolder();
    const [gateway, killed] = [await Gateway.start(folder), await Gateway.start(folder)];
    await killed.say("user", "a");
    await killed.end("SIGKILL");
    gateway.signal("SIGUSR1");
    expect(await gateway.told("cut-off")).toMatchObject({ session: "chat" });
    await gateway.told("restarted");
    expectOnlyTranscripts(folder);
  });

  test("who waits gets in, without any sweep", async () => {
    const folder = temporaryFolder();
    const [killed, gateway] = [
      await Gateway.start(folder),
      await Gateway.start(folder, waitModes.events),
    ];
    await killed.say("user", "a");
    await queueUp(gateway, { user: "b" });
    await killed.end("SIGKILL");
    await gateway.told("written");
    await gateway.say("assistant", "b");
    expect(await gateway.end()).toBe(0);
    expect(readTranscript(folder)).toEqual(["user: a", "user: b", "assistant: b"]);
    expectOnlyTranscripts(folder);
  });

  test("of one gateway, a sweep keeps the locks of the others", async () => {
    const folder = temporaryFolder();
    const [living, killed] = [await Gateway.start(folder), await Gateway.start(folder)];
    await living.say("user", "a");
    await killed.say("user", "b", "other");
    await killed.end("SIGKILL");
    const env = { OPENCLAW_SESSION_WRITE_LOCK_STALE_MS: "1" };
    const gateway = await Gateway.start(folder, env);
    expect(gateway.events).toMatchObject([{ event: "cut-off", session: "other" }, { event: "started" }]);
    expect(holderOf(folder)).toBe(living.pid);
    await living.say("assistant", "a");
    expect(await living.end()).toBe(0);
    expect(await gateway.end()).toBe(0);
    expect(readTranscript(folder)).toEqual(["user: a", "assistant: a"]);
    expectOnlyTranscripts(folder);
  });
});

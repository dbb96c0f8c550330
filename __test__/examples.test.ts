/**
 * The five programs of `examples/`, as real processes. Each scenario runs with the lock, under each Node, and with a
 * package of the same name that locks nothing. The last run has to fail, or the others prove nothing.
 */

import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, onTestFinished, test } from "vitest";

import { lock, tryLock } from "../index.js";
import { testOnEachNode } from "./nodes.js";
import { root, temporaryFolder, until } from "./support.js";

/** The names that the examples import, with nothing behind them. */
const NO_LOCK = `
  const free = () => ({ wanted: new AbortController().signal, signal: new AbortController().signal, release: async () => {} });
  export const lock = async () => free();
  export const tryLock = free;
  export const withLock = async (...args) => args.at(-1)(free());
  export const isLockTimeoutError = () => false;
`;

/** Where the examples are: in the repository, or in a folder with the package that locks nothing. */
function examplesFolder(hasLock: boolean): string {
  if (hasLock) {
    return path.join(root, "examples");
  }
  const folder = temporaryFolder();
  for (const name of readdirSync(path.join(root, "examples")).filter((name) => name.endsWith(".mjs"))) {
    cpSync(path.join(root, "examples", name), path.join(folder, name));
  }
  const stub = path.join(folder, "node_modules/session-write-lock");
  mkdirSync(stub, { recursive: true });
  writeFileSync(path.join(stub, "index.mjs"), NO_LOCK);
  writeFileSync(path.join(stub, "package.json"), JSON.stringify({ exports: "./index.mjs" }));
  return folder;
}

/** A running example. */
class Program {
  readonly process: ChildProcess;
  readonly ended: Promise<number | NodeJS.Signals>;
  stdout = "";
  stderr = "";

  constructor(node: string, ...args: string[]) {
    this.process = spawn(node, args, { stdio: "pipe" });
    onTestFinished(() => void this.process.kill("SIGKILL"));
    this.process.stdout!.on("data", (data) => (this.stdout += data));
    this.process.stderr!.on("data", (data) => (this.stderr += data));
    this.ended = new Promise((resolve) => {
      this.process.on("close", (code, signal) => resolve(code ?? signal!));
    });
  }

  get lines(): string[] {
    return this.stdout.split("\n").slice(0, -1);
  }

  /** Waits until it has printed so many lines; returns the last one. */
  async printed(count: number): Promise<string> {
    const hasEnded = () => this.process.exitCode !== null || this.process.signalCode !== null;
    await until(`it prints line ${count}`, () => this.lines.length >= count || hasEnded());
    expect(this.lines.length, this.stderr).toBeGreaterThanOrEqual(count);
    return this.lines[count - 1]!;
  }

  type(line: string): void {
    this.process.stdin!.write(`${line}\n`);
  }

  endInput(): void {
    this.process.stdin!.end();
  }
}

/** What remains beside the file itself. */
function litter(file: string): string[] {
  return readdirSync(path.dirname(file)).filter((name) => name !== path.basename(file));
}

type Start = (...args: string[]) => Program;

/** Starts an example as it is, under this Node. */
const starter = (example: string): Start => (...args) =>
  new Program(process.execPath, path.join(root, "examples", example), ...args);

/** How an expectation fails that is about exclusion. */
const COLLISION = "two were inside at once";

/**
 * Runs a scenario of an example. With the lock it must be fulfilled. Without the lock it must fail by a collision.
 * Processes collide by chance, so that run is repeated until they have.
 */
function scenario(name: string, run: (start: Start) => Promise<void>, example: string): void {
  testOnEachNode(name, (node) => {
    const file = path.join(examplesFolder(true), example);
    return run((...args) => new Program(node, file, ...args));
  });

  test(`the test "${name}" fails without the lock`, async () => {
    const file = path.join(examplesFolder(false), example);
    for (let round = 0; round < 20; round += 1) {
      try {
        await run((...args) => new Program(process.execPath, file, ...args));
      } catch (error) {
        expect(String(error)).toContain(COLLISION);
        return;
      }
    }
    throw new Error("without the lock all is well, too");
  });
}

describe("settings.mjs", () => {
  scenario("loses no change of twenty processes", async (start) => {
    const file = path.join(temporaryFolder(), "settings.json");
    const sets = [...Array(10).keys()].map((n) => start(file, "set", `key${n}`, `${n}`));
    const adds = [...Array(10).keys()].map(() => start(file, "add", "count"));
    for (const program of [...sets, ...adds]) {
      expect(await program.ended, `${COLLISION}: ${program.stderr}`).toBe(0);
    }
    const keys = Object.fromEntries([...Array(10).keys()].map((n) => [`key${n}`, `${n}`]));
    expect(JSON.parse(readFileSync(file, "utf8")), COLLISION).toEqual({ ...keys, count: 10 });
    expect(litter(file)).toEqual([]);
    const get = start(file, "get", "count");
    expect([await get.ended, get.stdout]).toEqual([0, "10\n"]);
  }, "settings.mjs");
});

describe("queue-worker.mjs", () => {
  scenario("does each job once, whichever of four workers does it", async (start) => {
    const file = path.join(temporaryFolder(), "jobs.json");
    const jobs = [...Array(200).keys()].map((n) => `job ${n}`);
    writeFileSync(file, JSON.stringify(jobs));
    const workers = [...Array(4).keys()].map(() => start(file));
    for (const worker of workers) {
      expect(await worker.ended, `${COLLISION}: ${worker.stderr}`).toBe(0);
    }
    const done = workers.flatMap(({ lines }) => lines);
    expect(done.sort(), COLLISION).toEqual(jobs.sort());
    expect(readFileSync(file, "utf8")).toBe("[]");
    expect(litter(file)).toEqual([]);
  }, "queue-worker.mjs");

  test("does the rest after a worker was killed", async () => {
    const file = path.join(temporaryFolder(), "jobs.json");
    const jobs = [...Array(400).keys()].map((n) => `job ${n}`);
    writeFileSync(file, JSON.stringify(jobs));
    const start = starter("queue-worker.mjs");
    const [victim, other] = [start(file), start(file)];
    await victim.printed(1);
    victim.process.kill("SIGKILL");
    expect([await victim.ended, await other.ended]).toEqual(["SIGKILL", 0]);
    const done = new Set([...victim.lines, ...other.lines]);
    // The job that the victim had taken and not yet announced may be lost with it.
    expect(done.size).toBeGreaterThanOrEqual(jobs.length - 1);
    expect(done.size).toBe(victim.lines.length + other.lines.length);
  });
});

describe("session-server.mjs", () => {
  const servers = async (start: Start, folder: string) => {
    const programs = [start(folder, "0"), start(folder, "0")];
    const ports = await Promise.all(programs.map((program) => program.printed(1)));
    return ports.map((port) => `http://localhost:${port}`);
  };
  const ask = async (server: string, session: string, question: string, signal?: AbortSignal) => {
    const response = await fetch(`${server}/${session}`, { method: "POST", body: question, signal });
    return { status: response.status, body: await response.text() };
  };

  scenario("never has two requests of one session inside", async (start) => {
    const folder = temporaryFolder();
    const addresses = await servers(start, folder);
    const sessions = ["chat", "cron"];
    const requests = [...Array(20).keys()].flatMap((n) =>
      sessions.map((session) => ask(addresses[n % 2]!, session, `${n}`)),
    );
    for (const { status, body } of await Promise.all(requests)) {
      expect(status, body).toBe(200);
    }
    for (const session of sessions) {
      const text = readFileSync(path.join(folder, `${session}.jsonl`), "utf8");
      const lines = text.trimEnd().split("\n").map((line) => JSON.parse(line));
      const turns = [...Array(20).keys()].map((n) => [lines[2 * n], lines[2 * n + 1]]);
      for (const [question, answer] of turns) {
        expect(answer, COLLISION).toEqual({ reply: `You said: ${question.question}` });
      }
      expect(new Set(turns.map(([question]) => question.question)).size).toBe(20);
    }
    expect(readdirSync(folder).sort()).toEqual(["chat.jsonl", "cron.jsonl"]);
  }, "session-server.mjs");

  test("a client that goes away waits no longer, and its turn does not begin", async () => {
    const folder = temporaryFolder();
    const [server] = await servers(starter("session-server.mjs"), folder);
    const file = path.join(folder, "chat.jsonl");
    const held = await lock(file);
    const client = new AbortController();
    const request = ask(server!, "chat", "a", client.signal);
    await new Promise((resolve) => held.wanted.addEventListener("abort", resolve));
    client.abort();
    await expect(request).rejects.toThrow("abort");
    // The queue's file goes with the last one that waits.
    await until("nobody waits", () => !existsSync(`${file}.lock.queue`));
    await held.release();
    expect(await ask(server!, "chat", "b")).toEqual({ status: 200, body: "You said: b\n" });
    expect(readFileSync(file, "utf8")).not.toContain('"a"');
  });

  test("knows no other address", async () => {
    const [server] = await servers(starter("session-server.mjs"), temporaryFolder());
    expect(await ask(server!, "../etc/passwd", "a")).toMatchObject({ status: 404 });
  });
});

describe("try-or-skip.mjs", () => {
  scenario("does not start while the last run is at it", async (start) => {
    const file = path.join(temporaryFolder(), "count.json");
    const first = start(file);
    expect(await first.printed(1)).toBe("started");
    const second = start(file);
    expect(await second.printed(1), COLLISION).toBe("skipped: the last run is still at it");
    expect(await second.ended).toBe(0);
    first.type("a line");
    first.endInput();
    expect([await first.ended, first.lines]).toEqual([0, ["started", "done"]]);
    expect(JSON.parse(readFileSync(file, "utf8"))).toEqual({ lines: 1 });
    expect(litter(file)).toEqual([]);
  }, "try-or-skip.mjs");

  test("starts at once after the last run was killed", async () => {
    const file = path.join(temporaryFolder(), "count.json");
    const start = starter("try-or-skip.mjs");
    const first = start(file);
    expect(await first.printed(1)).toBe("started");
    first.process.kill("SIGKILL");
    await first.ended;
    const second = start(file);
    second.endInput();
    expect([await second.ended, second.lines]).toEqual([0, ["started", "done"]]);
  });
});

describe("lock-for-life.mjs", () => {
  scenario("lets go when another process waits, and loses no line of either", async (start) => {
    const file = path.join(temporaryFolder(), "chat.json");
    const [one, other] = [start(file), start(file)];
    const counts: [Program, number][] = [[one, 1], [one, 2], [other, 3], [one, 4], [other, 5], [other, 6]];
    const printed = new Map([[one, 0], [other, 0]]);
    for (const [program, count] of counts) {
      program.type(`line ${count}`);
      printed.set(program, printed.get(program)! + 1);
      expect(await program.printed(printed.get(program)!), COLLISION).toBe(`${count}`);
    }
    one.endInput();
    other.endInput();
    expect([await one.ended, await other.ended]).toEqual([0, 0]);
    expect(JSON.parse(readFileSync(file, "utf8"))).toEqual([1, 2, 3, 4, 5, 6].map((n) => `line ${n}`));
    expect(litter(file)).toEqual([]);
  }, "lock-for-life.mjs");

  test("keeps the lock while nobody waits, also when it is idle", async () => {
    const file = path.join(temporaryFolder(), "chat.json");
    const program = starter("lock-for-life.mjs")(file);
    program.type("a");
    expect(await program.printed(1)).toBe("1");
    const { token } = JSON.parse(readFileSync(`${file}.lock`, "utf8"));
    program.type("b");
    expect(await program.printed(2)).toBe("2");
    expect(JSON.parse(readFileSync(`${file}.lock`, "utf8")).token).toBe(token);
    expect(tryLock(file)).toBeNull();
    const held = await lock(file); // it lets go
    await held.release();
    program.endInput();
    expect(await program.ended).toBe(0);
  });
});

describe("the demo", () => {
  const run = (folder: string) => spawnSync(process.execPath, [path.join(folder, "examples/demo/demo.mjs")], { encoding: "utf8" });

  test("holds every claim", () => {
    const { status, stdout, stderr } = run(root);
    expect(status, stdout + stderr).toBe(0);
    expect(stdout).toMatch(/1000 of 1000 left; without the lock: \d{1,3} of 1000 left/);
    expect(stdout).toContain("every claim held");
  });

  test("fails if the lock is taken out", () => {
    const folder = temporaryFolder();
    cpSync(path.join(root, "examples/demo"), path.join(folder, "examples/demo"), { recursive: true });
    writeFileSync(path.join(folder, "package.json"), JSON.stringify({ type: "module" }));
    const real = JSON.stringify(path.join(root, "index.js"));
    writeFileSync(path.join(folder, "index.js"), `export * from ${real};\nexport const withLock = (file, fn) => fn();\n`);
    const { status, stdout } = run(folder);
    expect(stdout).toMatch(/^FAIL .* no message is lost\n.*: the lock does not exclude$/m);
    expect(status).toBe(1);
  });
});

test("each example has a header of two lines, tests here, and a link in the README", () => {
  const tests = readFileSync(path.join(root, "__test__/examples.test.ts"), "utf8");
  const readme = readFileSync(path.join(root, "README.md"), "utf8");
  const names = readdirSync(path.join(root, "examples")).filter((name) => name.endsWith(".mjs"));
  expect(names).toHaveLength(5);
  for (const name of names) {
    const lines = readFileSync(path.join(root, "examples", name), "utf8").split("\n");
    expect(lines[0], name).toMatch(/^\/\/ /);
    expect(lines[1], name).toMatch(new RegExp(`^// .*node examples/${name} `));
    expect(lines[2], name).toBe("");
    expect(tests.includes(`describe("${name}"`), name).toBe(true);
    expect(readme.includes(`(examples/${name})`), name).toBe(true);
  }
});

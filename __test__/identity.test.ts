/**
 * Who a process is. All processes here are real: those that a Node program can't be are made by
 * `fixtures/odd-process.c`.
 */

import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { copyFileSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { Worker } from "node:worker_threads";
import { afterAll, describe, expect, onTestFinished, test } from "vitest";

import {
  getProcessComm,
  getProcessCommForPid,
  getProcessStartTime,
  isAlive,
} from "../index.js";
import { nodes, testOnEachNode } from "./nodes.js";
import { Agent, asAnotherUser, root, temporaryFolder, testWith } from "./support.js";

/** A name that nothing here has. */
const WRONG_NAME = "no-such-name";

/** Beyond the highest number that Linux can be set up to give (2^22). */
const NEVER_A_PID = 2 ** 22 + 1;

/** The task name as the module before us recorded it. */
function recordedComm(pid: number): string {
  return readFileSync(`/proc/${pid}/comm`, "utf8").trim();
}

/** Field 22 of `/proc/<pid>/stat`, counted from the last parenthesis because names may hold some. */
function field22(pid: number | "self"): number {
  const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
  return Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[22 - 3]);
}

function threadsOf(pid: number): number[] {
  return readdirSync(`/proc/${pid}/task`)
    .map(Number)
    .filter((tid) => tid !== pid);
}

const oddProgram = (() => {
  let folder: string | undefined;
  afterAll(() => folder && rmSync(folder, { recursive: true }));
  return () => {
    if (folder === undefined) {
      folder = mkdtempSync(path.join(tmpdir(), "session-write-lock-odd-"));
      const source = path.join(root, "__test__/fixtures/odd-process.c");
      execFileSync("cc", ["-pthread", "-o", path.join(folder, "odd-process"), source]);
    }
    return path.join(folder, "odd-process");
  };
})();

/** A process of `odd-process.c`, and the number it wants to be asked about. */
async function startOdd(...args: string[]): Promise<{ pid: number; process: ChildProcess }> {
  const child = spawn(oddProgram(), args, { stdio: ["pipe", "pipe", "inherit"] });
  onTestFinished(() => void child.kill("SIGKILL"));
  const [line] = await once(createInterface(child.stdout), "line");
  return { pid: Number(line), process: child };
}

/** The program under another file name, made of any bytes. */
async function startOddAs(fileName: Buffer | string): Promise<number> {
  const file = Buffer.concat([Buffer.from(`${temporaryFolder()}/`), Buffer.from(fileName)]);
  copyFileSync(oddProgram(), file);
  return (await startOdd("run", file.toString("hex"), "stay")).pid;
}

describe("any number and any string", () => {
  const impossible = [
    ...[NaN, Infinity, -Infinity, 0, -0, -1, 0.5, 1.5, Number.MIN_VALUE, Number.EPSILON],
    ...[2 ** 31, 2 ** 32, 2 ** 40, 2 ** 53, 1e308, -(2 ** 31), -(2 ** 32), -1e308],
    // A careless conversion makes these our own number, or our process group's.
    ...[-process.pid, process.pid + 0.5, process.pid + 2 ** 32, process.pid - 2 ** 32],
  ];
  const possible = [NEVER_A_PID, 2 ** 31 - 1, 1, process.pid];
  const names = [
    ...["", " ", "node", "node\0", "\0", "x".repeat(10_240), "node".repeat(2_560), "é".repeat(9)],
    ...["\ud800", "node\udfff", "\udc00\ud800", "a) R 1 (b", "\n", "../../etc", "%s%n", "\u{1f600}"],
  ];

  test("a number that no process can have is not alive, under no name", () => {
    for (const pid of impossible) {
      expect(isAlive(pid), `${pid}`).toBe(false);
      expect(isAlive(pid, "node"), `${pid}`).toBe(false);
      expect(getProcessCommForPid(pid), `${pid}`).toBe(null);
      expect(getProcessStartTime(pid), `${pid}`).toBe(null);
    }
  });

  test("no number and no string makes anything throw", () => {
    for (const pid of [...impossible, ...possible]) {
      expect(getProcessCommForPid(pid)).toBeOneOf([null, expect.any(String)]);
      expect(getProcessStartTime(pid)).toBeOneOf([null, expect.any(Number)]);
      for (const name of names) {
        expect(isAlive(pid, name), `${pid} ${JSON.stringify(name)}`).toBeTypeOf("boolean");
      }
    }
  });

  test("what is neither a number nor a string throws nothing either", () => {
    const others: any[] = [undefined, null, "1", {}, [], [1], 1n, Symbol("1"), () => 1, true];
    for (const other of others) {
      expect(isAlive(other)).toBe(false);
      expect(getProcessCommForPid(other)).toBe(null);
      expect(getProcessStartTime(other)).toBe(null);
      if (typeof other !== "string") {
        expect(isAlive(process.pid, other)).toBe(true);
      }
    }
  });

  test("a name longer than the kernel keeps is compared as far as it keeps it", () => {
    expect(isAlive(process.pid, "x".repeat(10_240))).toBe(false);
    expect(isAlive(process.pid, "node".repeat(2_560))).toBe(false);
  });
});

describe("dead or alive", () => {
  test("this process is alive, with its name and without", () => {
    expect(isAlive(process.pid)).toBe(true);
    expect(isAlive(process.pid, getProcessComm())).toBe(true);
    expect(isAlive(process.pid, recordedComm(process.pid))).toBe(true);
  });

  test("an empty name proves nothing", () => {
    expect(isAlive(process.pid, "")).toBe(true);
    expect(isAlive(process.pid, " \n")).toBe(true);
  });

  test("this process is not alive under another name", () => {
    expect(isAlive(process.pid, WRONG_NAME)).toBe(false);
  });

  test("a process that has ended is not alive", async () => {
    const agent = await Agent.start();
    expect(isAlive(agent.pid, "node")).toBe(true);
    await agent.kill();
    expect(isAlive(agent.pid)).toBe(false);
    expect(isAlive(agent.pid, "node")).toBe(false);
    expect(getProcessCommForPid(agent.pid)).toBe(null);
    expect(getProcessStartTime(agent.pid)).toBe(null);
  });

  test("a number that Linux never gives is not alive", () => {
    expect(isAlive(NEVER_A_PID)).toBe(false);
    expect(getProcessCommForPid(NEVER_A_PID)).toBe(null);
    expect(getProcessStartTime(NEVER_A_PID)).toBe(null);
  });

  test("the number of a thread of another process is not alive, although signal 0 reaches it", async () => {
    const agent = await Agent.start();
    const threads = threadsOf(agent.pid);
    expect(threads.length).toBeGreaterThan(0);
    for (const tid of threads) {
      expect(() => process.kill(tid, 0)).not.toThrow();
      expect(isAlive(tid)).toBe(false);
      expect(isAlive(tid, "node")).toBe(false);
      expect(isAlive(tid, recordedComm(tid))).toBe(false);
      expect(getProcessCommForPid(tid)).toBe(null);
      expect(getProcessStartTime(tid)).toBe(null);
    }
  });

  test("the number of a worker thread of this process is not alive", async () => {
    const before = new Set(threadsOf(process.pid));
    const worker = new Worker("require('worker_threads').parentPort.on('message', () => {})", {
      eval: true,
    });
    onTestFinished(() => void worker.terminate());
    await once(worker, "online");
    const started = threadsOf(process.pid).filter((tid) => !before.has(tid));
    expect(started.length).toBeGreaterThan(0);
    for (const tid of started) {
      expect(() => process.kill(tid, 0)).not.toThrow();
      expect(isAlive(tid)).toBe(false);
    }
  });

  testWith("a C compiler")("a zombie is not alive, although signal 0 reaches it", async () => {
    const { pid } = await startOdd("zombie");
    expect(() => process.kill(pid, 0)).not.toThrow();
    expect(isAlive(pid)).toBe(false);
    expect(isAlive(pid, recordedComm(pid))).toBe(false);
    expect(getProcessCommForPid(pid)).toBe(null);
    expect(getProcessStartTime(pid)).toBe(null);
  });

  testWith("a C compiler")(
    "a process whose main thread has ended lives as long as its other threads",
    async () => {
      const { pid, process: child } = await startOdd("leaderless");
      const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
      expect(stat.at(stat.lastIndexOf(")") + 2)).toBe("Z"); // or this test would show nothing
      expect(isAlive(pid)).toBe(true);
      expect(isAlive(pid, "odd-process")).toBe(true);
      // Its executable can't be read any more, so that a name refutes nothing.
      expect(isAlive(pid, WRONG_NAME)).toBe(true);
      expect(getProcessStartTime(pid)).toBe(field22(pid));
      const ended = once(child, "exit");
      child.kill("SIGKILL");
      await ended;
      expect(isAlive(pid)).toBe(false);
    },
  );
});

describe("the names of Node", () => {
  test("getProcessComm is `node` here, whatever the test runner has made of the title", () => {
    expect(getProcessComm()).toBe("node");
    expect(getProcessCommForPid(process.pid)).toBe("node");
  });

  testOnEachNode(
    "the kernel does not call the newer Nodes `node`, so that these tests show something",
    async (node) => {
      const agent = await Agent.start({ node });
      expect(recordedComm(agent.pid)).toBeOneOf(["MainThread", "node-MainThread"]);
    },
    nodes.slice(1),
  );

  testOnEachNode("a process is `node` before and after a change of title", async (node) => {
    const agent = await Agent.start({ node });
    await expectIsNode(agent);
    await agent.run(() => {
      process.title = "something else";
    });
    expect(recordedComm(agent.pid)).toBe("something else");
    await expectIsNode(agent);
  });

  testOnEachNode(
    "a title set before the first question does not become the name",
    async (node) => {
      const agent = await Agent.start({ node });
      await agent.run(() => {
        process.title = "a title longer than fifteen bytes";
      });
      await expectIsNode(agent);
    },
  );

  testOnEachNode("a worker is `node` too, whatever its thread is called", async (node) => {
    const agent = await Agent.start({ node });
    expect(await askInWorker(agent)).toEqual(["node", "node", true, true, false]);
    await agent.run(() => {
      process.title = "something else";
    });
    expect(await askInWorker(agent)).toEqual(["node", "node", true, true, false]);
    await expectIsNode(agent);
  });

  testOnEachNode("a process whose binary is replaced, then removed, is `node`", async (node) => {
    const binary = path.join(temporaryFolder(), "node");
    copyFileSync(node, binary);
    const agent = await Agent.start({ node: binary });
    const replacement = path.join(temporaryFolder(), "replacement");
    copyFileSync("/bin/true", replacement);
    renameSync(replacement, binary);
    // Asked only now: an answer from before would prove nothing.
    await expectIsNode(agent);
    rmSync(binary);
    await expectIsNode(agent);
    expect(await askInWorker(agent)).toEqual(["node", "node", true, true, false]);
  });

  /** From inside and from outside. */
  async function expectIsNode(agent: Agent) {
    const inside = await agent.run(
      ({ lock }, wrongName) => [
        lock.getProcessComm(),
        lock.getProcessCommForPid(process.pid),
        lock.isAlive(process.pid, "node"),
        lock.isAlive(process.pid, wrongName),
      ],
      WRONG_NAME,
    );
    expect(inside).toEqual(["node", "node", true, false]);
    expect(getProcessCommForPid(agent.pid)).toBe("node");
    expect(isAlive(agent.pid, "node")).toBe(true);
    expect(isAlive(agent.pid, recordedComm(agent.pid))).toBe(true);
    expect(isAlive(agent.pid, WRONG_NAME)).toBe(false);
  }

  /** A worker's view of its process, under both its names and a wrong one. */
  function askInWorker(agent: Agent) {
    return agent.run(
      ({ require }, wrongName, index) =>
        new Promise((resolve, reject) => {
          const { Worker } = require("node:worker_threads") as typeof import("node:worker_threads");
          const worker = new Worker(
            `const { parentPort, workerData: [wrongName, index] } = require("node:worker_threads");
            const lock = require(index);
            const comm = require("node:fs").readFileSync("/proc/self/comm", "utf8").trim();
            parentPort.postMessage([
              lock.getProcessComm(),
              lock.getProcessCommForPid(process.pid),
              lock.isAlive(process.pid, "node"),
              lock.isAlive(process.pid, comm),
              lock.isAlive(process.pid, wrongName),
            ]);`,
            { eval: true, workerData: [wrongName, index], name: "a worker" },
          );
          worker.once("message", resolve);
          worker.once("error", reject);
        }),
      WRONG_NAME,
      path.join(root, "index.js"),
    );
  }
});

describe("odd names", () => {
  const taskNames: [string, Buffer][] = [
    ["spaces", Buffer.from("two  words")],
    ["spaces at its ends", Buffer.from("  padded  ")],
    ["parentheses that look like fields", Buffer.from("a) R 1 (b")],
    ["parentheses that look like a zombie's", Buffer.from(") Z 1 1 1 (")],
    ["parentheses only", Buffer.from("))))((((")],
    ["newlines", Buffer.from("a\nTgid:\t1\nb")],
    ["a backslash", Buffer.from("a\\nb\\")],
    ["control characters", Buffer.from("\x1b[31m\x07\x7f\r\t")],
    ["bytes that are not UTF-8", Buffer.from([0xff, 0xfe, 0x61, 0x80, 0xc3])],
    ["nothing but bytes that are not UTF-8", Buffer.alloc(15, 0xff)],
    ["a character that the kernel cut", Buffer.from("fourteen bytesé")],
    ["fifteen bytes", Buffer.from("exactly fifteen")],
    ["nothing", Buffer.from("")],
  ];
  for (const [what, bytes] of taskNames) {
    testWith("a C compiler")(`a process lives on under a task name of ${what}`, async () => {
      const { pid } = await startOdd("named", bytes.toString("hex"));
      const comm = readFileSync(`/proc/${pid}/comm`);
      expect(comm).toEqual(Buffer.concat([bytes.subarray(0, 15), Buffer.from("\n")]));
      expect(isAlive(pid)).toBe(true);
      expect(isAlive(pid, recordedComm(pid))).toBe(true);
      expect(isAlive(pid, comm.toString())).toBe(true);
      expect(isAlive(pid, "odd-process")).toBe(true);
      expect(isAlive(pid, WRONG_NAME)).toBe(false);
      expect(getProcessCommForPid(pid)).toBe("odd-process");
      expect(getProcessStartTime(pid)).toBe(field22(pid));
    });
  }

  // What `getProcessCommForPid` says must be at most 15 bytes and whole characters.
  const fileNames: [string, Buffer | string, string][] = [
    ["spaces and parentheses", "a) R 1 (b", "a) R 1 (b"],
    ["newlines", "a\nTgid:\t1\nb", "a\nTgid:\t1\nb"],
    ["more than fifteen bytes", "a-very-long-executable-name", "a-very-long-exe"],
    ["exactly fifteen bytes", "exactly-fifteen", "exactly-fifteen"],
    ["a character across the fifteenth byte", "fourteen-bytesé-more", "fourteen-bytes"],
    ["three-byte characters", "日本語の名前です", "日本語の名"],
    ["a four-byte character across the limit", "thirteen-byte😀😀", "thirteen-byte"],
    ["bytes that are not UTF-8", Buffer.from([0x61, 0xff, 0x62, 0xc3]), "a\ufffdb\ufffd"],
    ["the kernel's word for a removed file", "gone (deleted)", "gone"],
    ["a capital and a dot", "Node.exe", "Node.exe"],
  ];
  for (const [what, fileName, name] of fileNames) {
    testWith("a C compiler")(`a process lives whose executable's name has ${what}`, async () => {
      const pid = await startOddAs(fileName);
      expect(getProcessCommForPid(pid)).toBe(name);
      expect(isAlive(pid, name)).toBe(true);
      expect(isAlive(pid, fileName.toString())).toBe(true);
      expect(isAlive(pid, recordedComm(pid))).toBe(true);
      expect(isAlive(pid, WRONG_NAME)).toBe(false);
      expect(isAlive(pid, "odd-process")).toBe(false);
      expect(getProcessStartTime(pid)).toBe(field22(pid));
    });
  }

  testWith("a C compiler")("names that share fifteen bytes are the same, fourteen are not", async () => {
    const pid = await startOddAs("a-very-long-executable-name");
    expect(isAlive(pid, "a-very-long-exerpt")).toBe(true);
    expect(isAlive(pid, "a-very-long-exx")).toBe(false);
    expect(isAlive(pid, "a-very-long-ex")).toBe(false);
  });
});

describe("what the kernel does not tell everybody", () => {
  /** What an agent that may be told less than we are says about a process. */
  function ask(agent: Agent, pid: number) {
    return agent.run(
      ({ lock }, pid, wrongName) => ({
        isAlive: lock.isAlive(pid),
        isAliveUnderWrongName: lock.isAlive(pid, wrongName),
        comm: lock.getProcessCommForPid(pid),
        startTime: lock.getProcessStartTime(pid),
      }),
      pid,
      WRONG_NAME,
    );
  }

  testWith("root", "another user")(
    "another user's process is alive under any name, because its executable can't be read",
    async () => {
      const stranger = await Agent.start({ through: asAnotherUser });
      const refused = await stranger.run((_, pid) => {
        try {
          return process.kill(pid, 0);
        } catch (error) {
          return (error as NodeJS.ErrnoException).code;
        }
      }, process.pid);
      expect(refused).toBe("EPERM"); // or this test would show nothing
      expect(await ask(stranger, process.pid)).toEqual({
        isAlive: true,
        isAliveUnderWrongName: true,
        comm: recordedComm(process.pid),
        startTime: field22("self"),
      });
    },
  );

  testWith("root", "another user")("a thread of another user's process is not alive", async () => {
    const stranger = await Agent.start({ through: asAnotherUser });
    const tid = threadsOf(process.pid)[0]!;
    expect((await ask(stranger, tid)).isAlive).toBe(false);
  });

  testWith("root", "another user")("a process of another user that has ended is dead", async () => {
    const stranger = await Agent.start({ through: asAnotherUser });
    const agent = await Agent.start();
    expect((await ask(stranger, agent.pid)).isAlive).toBe(true);
    await agent.kill();
    expect((await ask(stranger, agent.pid)).isAlive).toBe(false);
  });

  testWith("root", "another user", "pid namespaces")(
    "a process that `hidepid` hides is alive under any name",
    async () => {
      const hiding = ["sh", "-c", 'mount -t proc -o hidepid=2 none /proc && "$@" & wait', "sh"];
      const stranger = await Agent.start({
        through: ["unshare", "-pfm", "--kill-child", ...hiding, ...asAnotherUser],
      });
      expect(await stranger.run(({ require }) => require("node:fs").existsSync("/proc/1"))).toBe(
        false, // or this test would show nothing
      );
      expect(await ask(stranger, 1)).toEqual({
        isAlive: true,
        isAliveUnderWrongName: true,
        comm: null,
        startTime: null,
      });
      const own = await stranger.run(() => process.pid);
      expect(await ask(stranger, own)).toEqual({
        isAlive: true,
        isAliveUnderWrongName: false,
        comm: "node",
        startTime: expect.any(Number),
      });
      expect(await ask(stranger, NEVER_A_PID)).toMatchObject({ isAlive: false });
    },
  );

  testWith("pid namespaces")(
    "with another namespace's /proc the number alone decides, even about oneself",
    async () => {
      const agent = await Agent.start({ through: ["unshare", "-pf", "--kill-child"] });
      const { own, self, child } = await agent.run(({ require, kept }) => {
        const { spawn } = require("node:child_process") as typeof import("node:child_process");
        const sleeper = spawn("cat", { stdio: ["pipe", "ignore", "ignore"] });
        kept.set("sleeper", sleeper);
        const self = require("node:fs").readlinkSync("/proc/self");
        return { own: process.pid, self: Number(self), child: sleeper.pid! };
      });
      expect(own).toBe(1);
      expect(self).not.toBe(1); // or this test would show nothing
      const byNumberOnly = {
        isAlive: true,
        isAliveUnderWrongName: true,
        comm: null,
        startTime: null,
      };
      expect(await ask(agent, own)).toEqual(byNumberOnly);
      expect(await ask(agent, child)).toEqual(byNumberOnly);
      // /proc has an entry with this number, of a process that has another in there.
      expect(await ask(agent, self)).toMatchObject({ isAlive: false, comm: null, startTime: null });
      expect(await agent.run(({ lock }) => lock.getProcessComm())).toBe("node");
      const buried = await agent.run(
        ({ kept }) =>
          new Promise<number>((resolve) => {
            const sleeper = kept.get("sleeper");
            sleeper.once("exit", () => resolve(sleeper.pid));
            sleeper.stdin.end();
          }),
      );
      expect((await ask(agent, buried)).isAlive).toBe(false);
    },
  );

  testWith("pid namespaces")("in a pid namespace with its own /proc, names count again", async () => {
    const agent = await Agent.start({ through: ["unshare", "-pfm", "--mount-proc", "--kill-child"] });
    expect(await ask(agent, 1)).toEqual({
      isAlive: true,
      isAliveUnderWrongName: false,
      comm: "node",
      startTime: expect.any(Number),
    });
  });

  testWith("a kernel thread")("a kernel thread goes by its task name, and by no other", () => {
    expect(getProcessCommForPid(2)).toBe("kthreadd");
    expect(isAlive(2)).toBe(true);
    expect(isAlive(2, "kthreadd")).toBe(true);
    expect(isAlive(2, "node")).toBe(false);
    expect(getProcessStartTime(2)).toBe(field22(2));
  });
});

describe("the start time", () => {
  test("is field 22 of /proc/<pid>/stat, for oneself and for others", async () => {
    expect(getProcessStartTime(process.pid)).toBe(field22("self"));
    expect(getProcessStartTime(process.ppid)).toBe(field22(process.ppid));
    const agent = await Agent.start();
    expect(getProcessStartTime(agent.pid)).toBe(field22(agent.pid));
    const inside = await agent.run(({ lock }) => lock.getProcessStartTime(process.pid));
    expect(inside).toBe(field22(agent.pid));
  });

  test("grows from one process to the next, and stays what it was", async () => {
    const first = await Agent.start();
    const startTime = getProcessStartTime(first.pid)!;
    // Starting a Node takes longer than the 10 ms that the kernel counts in.
    const second = await Agent.start();
    expect(getProcessStartTime(second.pid)!).toBeGreaterThan(startTime);
    expect(getProcessStartTime(first.pid)).toBe(startTime);
  });
});

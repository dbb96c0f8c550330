/**
 * The end of the process beside others who listen for it: `signal-exit`, a drain listener, listeners of `exit`.
 */

import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import { text } from "node:stream/consumers";
import { describe, expect, onTestFinished, test } from "vitest";

import { root, temporaryFolder, testWith, until } from "./support.js";

const SIGNALS = ["SIGINT", "SIGTERM"] as const;

/** Runs a script with `lock`, `sessionFile` and `ready()`; sends it a signal once it is ready. */
async function end(script: string, signal?: NodeJS.Signals) {
  const sessionFile = path.join(temporaryFolder(), "chat.jsonl");
  const source = `
    const lock = require(${JSON.stringify(root)});
    const sessionFile = ${JSON.stringify(sessionFile)};
    const fs = require("node:fs");
    const isLocked = () => fs.existsSync(sessionFile + ".lock");
    const ready = () => { console.log("ready"); setInterval(() => {}, 1000); };
    (async () => { ${script} })();`;
  const child = spawn(process.execPath, ["-e", source], { cwd: root, stdio: ["ignore", "pipe", "pipe"] });
  onTestFinished(() => void child.kill("SIGKILL"));
  const output = text(child.stdout);
  const errors = text(child.stderr);
  if (signal) {
    let said = "";
    child.stdout.on("data", (chunk) => (said += chunk));
    await until("it is ready", () => said.includes("ready\n"));
    child.kill(signal);
  }
  // A process that lives on fails the test soon.
  const timer = setTimeout(() => child.kill("SIGKILL"), 10_000);
  const [code, killedBy] = await once(child, "exit");
  clearTimeout(timer);
  const lines = (await output).split("\n").filter((line) => line !== "" && line !== "ready");
  return { code, killedBy, lines, errors: await errors, isLocked: existsSync(`${sessionFile}.lock`) };
}

const SESSION = "await lock.acquireSessionWriteLock({ sessionFile });";
const GENERAL = "await lock.lock(sessionFile);";

const COMPANIONS = {
  "signal-exit 3": 'require("signal-exit-3")(() => console.log("its hook"));',
  "signal-exit 4": 'require("signal-exit").onExit(() => console.log("its hook"));',
  "both of them":
    'require("signal-exit-3")(() => {}); require("signal-exit").onExit(() => console.log("its hook"));',
};

describe("beside", () => {
  for (const [name, companion] of Object.entries(COMPANIONS)) {
    for (const signal of SIGNALS) {
      for (const [order, script] of [
        ["before", `${companion} ${SESSION} ready();`],
        ["after", `${SESSION} ${companion} ready();`],
      ]) {
        test(`${name}, loaded ${order} the lock, ${signal} ends the process, and the lock with it`, async () => {
          const ended = await end(script!, signal);
          expect(ended).toMatchObject({ code: null, killedBy: signal, isLocked: false, errors: "" });
          expect(ended.lines).toContain("its hook");
        });
      }
    }
  }

  test("restore-cursor, SIGTERM ends the process", async () => {
    // Without a terminal it does nothing.
    const script = `
      process.stderr.isTTY = true;
      (await import("restore-cursor")).default();
      console.log(process.listenerCount("SIGTERM"));
      ${SESSION} ready();`;
    expect(await end(script, "SIGTERM")).toMatchObject({ killedBy: "SIGTERM", isLocked: false, lines: ["1"] });
  });

  test("signal-exit, a listener of the program still decides", async () => {
    const script = `
      ${COMPANIONS["signal-exit 4"]}
      process.on("SIGTERM", () => { console.log("drained"); process.exit(7); });
      ${SESSION} ready();`;
    expect(await end(script, "SIGTERM")).toMatchObject({ code: 7, isLocked: false, lines: ["drained", "its hook"] });
  });
});

describe("signal-exit that does not end the process", () => {
  test("by a hook that says no keeps the general locks and what waits", async () => {
    const script = `
      require("signal-exit").onExit(() => { setTimeout(tell, 20); return true; });
      const held = await lock.lock(sessionFile);
      const session = await lock.acquireSessionWriteLock({ sessionFile: sessionFile + "2" });
      const next = lock.lock(sessionFile);
      async function tell() {
        console.log(held.held, session.held);
        await held.release();
        console.log((await next).held);
        process.exit(0);
      }
      ready();`;
    const { code, lines } = await end(script, "SIGTERM");
    // The session lock is gone, as with the older module.
    expect({ code, lines }).toEqual({ code: 0, lines: ["true false", "true"] });
  });

  test("because its listeners were removed leaves the program's listener to decide", async () => {
    const script = `
      require("signal-exit").onExit(() => {});
      process.removeAllListeners("SIGTERM");
      const held = await lock.acquireSessionWriteLock({ sessionFile, handleSignals: "if-alone" });
      process.on("SIGTERM", () => { console.log(held.held); process.exit(0); });
      ready();`;
    expect((await end(script, "SIGTERM")).lines).toEqual(["true"]);
  });
});

testWith("pid namespaces")("the first process of a container exits by SIGTERM, and its lock goes", async () => {
  const sessionFile = path.join(temporaryFolder(), "chat.jsonl");
  const source = `
    require(${JSON.stringify(root)}).acquireSessionWriteLock({ sessionFile: ${JSON.stringify(sessionFile)} });
    setInterval(() => {}, 1000);
    console.log(process.pid);`;
  const args = ["-pfm", "--mount-proc", "--kill-child", process.execPath, "-e", source];
  const child = spawn("unshare", args, { stdio: ["ignore", "pipe", "inherit"] });
  onTestFinished(() => void child.kill("SIGKILL"));
  const [pid] = await once(child.stdout, "data");
  expect(String(pid)).toBe("1\n");
  await until("it has the lock", () => existsSync(`${sessionFile}.lock`));
  const [node] = readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, "utf8").split(" ");
  process.kill(Number(node), "SIGTERM");
  const [code] = await once(child, "exit");
  expect({ code, isLocked: existsSync(`${sessionFile}.lock`) }).toEqual({ code: 143, isLocked: false });
});

describe("a program that drains on SIGTERM", () => {
  const drain = 'process.on("SIGTERM", () => { console.log(`locked: ${isLocked()}`); process.exit(0); });';

  test("works without its session locks, as with the older module", async () => {
    const { lines, isLocked } = await end(`${drain} ${SESSION} ready();`, "SIGTERM");
    expect({ lines, isLocked }).toEqual({ lines: ["locked: false"], isLocked: false });
  });

  test("keeps them with handleSignals: if-alone", async () => {
    const take = 'await lock.acquireSessionWriteLock({ sessionFile, handleSignals: "if-alone" });';
    const { lines, isLocked } = await end(`${drain} ${take} ready();`, "SIGTERM");
    expect({ lines, isLocked }).toEqual({ lines: ["locked: true"], isLocked: false });
  });

  test("keeps its general locks, also beside session locks", async () => {
    const other = 'await lock.acquireSessionWriteLock({ sessionFile: sessionFile + "2" });';
    const { lines, isLocked } = await end(`${drain} ${GENERAL} ${other} ready();`, "SIGTERM");
    expect({ lines, isLocked }).toEqual({ lines: ["locked: true"], isLocked: false });
  });
});

describe("a program with general locks alone", () => {
  test("has no listener for signals, and the kernel frees what a signal ends", async () => {
    const script = `
      ${GENERAL}
      console.log(["SIGINT", "SIGTERM", "SIGQUIT", "SIGABRT"].map((it) => process.listenerCount(it)).join());
      ready();`;
    const { lines, killedBy, isLocked } = await end(script, "SIGTERM");
    // The dead file stays: the next process takes it over.
    expect({ lines, killedBy, isLocked }).toEqual({ lines: ["0,0,0,0"], killedBy: "SIGTERM", isLocked: true });
  });

  test.each(["process.exit(3)", "setTimeout(() => {}, 1)", "throw new Error('x')"])(
    "removes its lock file at a clean exit: %s",
    async (how) => {
      const { isLocked } = await end(`${GENERAL} console.log(isLocked()); process.nextTick(() => { ${how} });`);
      expect(isLocked).toBe(false);
    },
  );
});

describe("a listener of exit", () => {
  const tell = 'process.on("exit", () => console.log(`locked: ${isLocked()}`));';

  test.each([
    ["before the lock", `${tell} ${GENERAL} process.exit();`],
    ["after the lock", `${GENERAL} ${tell} await null; process.exit();`],
    ["after the lock, once", `${GENERAL} ${tell.replace(".on", ".once")} await null; process.exit();`],
    ["between two locks", `${GENERAL} ${tell} await lock.lock(sessionFile + "2"); process.exit();`],
    ["after the session lock", `${SESSION} ${tell} setTimeout(() => {}, 5);`],
    [
      "beside another one that wants to be last",
      `const mine = () => {};
       process.on("exit", mine);
       process.on("newListener", (event, listener) => {
         if (event === "exit" && listener !== mine) {
           queueMicrotask(() => { process.off("exit", mine); process.on("exit", mine); });
         }
       });
       ${GENERAL} ${tell} await new Promise(setImmediate); process.exit();`,
    ],
  ])("that was added %s still runs under the lock", async (_, script) => {
    const { lines, isLocked } = await end(script);
    expect({ lines, isLocked }).toEqual({ lines: ["locked: true"], isLocked: false });
  });
});

/**
 * strace as a fault injector: it is attached to a process that is ready, and makes its system calls
 * fail or kills it before one.
 */

import { type ChildProcess, spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import path from "node:path";
import { onTestFinished } from "vitest";

import { Agent, temporaryFolder } from "./support.js";

/** Attaches strace to all threads of an agent. Resolves with a function that detaches it. */
export async function trace(agent: Agent, ...options: string[]): Promise<() => Promise<void>> {
  const strace: ChildProcess = spawn(
    "strace",
    ["-f", "-o", "/dev/null", ...options, "-p", String(agent.pid)],
    { stdio: ["ignore", "ignore", "pipe"] },
  );
  onTestFinished(() => void strace.kill("SIGKILL"));
  const ended = new Promise<void>((resolve) => strace.on("exit", () => resolve()));
  let output = "";
  await new Promise<void>((resolve, reject) => {
    strace.stderr!.on("data", (data) => {
      output += data;
      if (/attached/.test(output)) {
        resolve();
      }
    });
    void ended.then(() => reject(new Error(`strace ended: ${output}`)));
  });
  return async () => {
    strace.kill("SIGINT");
    await ended;
  };
}

/** The names of the calls in a log of strace. */
export function callsIn(log: string): string[] {
  const names = readFileSync(log, "utf8").matchAll(/^\d+ +(?:<\.\.\. )?([a-z]\w+)/gm);
  return [...new Set([...names].map((match) => match[1]!))].sort();
}

/** What a process calls besides: of the event loop, of threads and of memory; and `more`. */
export function isBeside(name: string, ...more: string[]): boolean {
  return more.includes(name) || OF_THE_RUNTIME.test(name);
}

const OF_THE_RUNTIME =
  /^(read|write|recvmsg|sendmsg|io_uring_\w+|epoll_\w+|futex|clone3?|rseq|prctl|set_robust_list|sched_\w+|rt_sig\w+|restart_syscall|exit|gettid|mmap|munmap|mremap|mprotect|madvise|brk)$/;

export function inject(call: string, fault: string): string[] {
  return ["-e", `trace=${call}`, "-e", `inject=${call}:${fault}`];
}

/** An agent that has used the lock before: what it reads of itself once, it has read. */
export async function warmAgent(): Promise<Agent> {
  const agent = await Agent.start();
  const sessionFile = path.join(temporaryFolder(), "warm.jsonl");
  await agent.acquire({ sessionFile });
  await agent.release(sessionFile);
  return agent;
}

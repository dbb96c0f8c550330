/** The command line as a process. */

import { type ChildProcess, spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import path from "node:path";
import { onTestFinished } from "vitest";

import { root, until } from "./support.js";

const PROGRAM = path.join(root, "bin/session-write-lock.mjs");

export interface Options {
  cwd?: string;
  env?: NodeJS.ProcessEnv;
  /** On a terminal of this size: what is written to `stdin` are its keys. */
  terminal?: { columns: number; rows: number };
  /** A command that starts it. */
  through?: string[];
  program?: string;
}

/** A running `session-write-lock`. */
export class Run {
  readonly process: ChildProcess;
  readonly ended: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
  stdout = "";
  stderr = "";

  constructor(words: string[], { cwd, env, terminal, through = [], program = PROGRAM }: Options) {
    // Node thinks that no terminal of a `CI` has colours.
    const { CI, NO_COLOR, FORCE_COLOR, DEBUG, ...inherited } = process.env;
    const own = [...through, process.execPath, program, ...words];
    const [command, ...args] = terminal ? onTerminal(own, terminal) : own;
    this.process = spawn(command!, args, {
      cwd,
      env: { ...inherited, TERM: "xterm", SHELL: "/bin/sh", ...env },
      detached: true, // from the terminal on which the tests may have been started
    });
    onTestFinished(() => void this.process.kill("SIGKILL"));
    this.process.stdin!.on("error", () => {}); // it need not read what it is told
    this.process.stdout!.setEncoding("utf8").on("data", (text) => {
      this.stdout += text;
    });
    this.process.stderr!.setEncoding("utf8").on("data", (text) => {
      this.stderr += text;
    });
    this.ended = new Promise((resolve) => {
      this.process.on("close", (code, signal) => resolve({ code, signal }));
    });
  }

  /** Until it has printed something, after the first `start` characters. */
  async printed(what: string | RegExp, start = 0): Promise<void> {
    const pattern = typeof what === "string" ? new RegExp(RegExp_escape(what)) : what;
    await until(`it prints ${what}`, () => pattern.test(this.stdout.slice(start)));
  }

  kill(signal: NodeJS.Signals): void {
    process.kill(this.process.pid!, signal);
  }

  press(keys: string): void {
    this.process.stdin!.write(keys);
  }

  /** On a terminal: the program's own process, which is not the terminal's. */
  pidOnTerminal(): number {
    const pid = this.process.pid!;
    return Number(readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8"));
  }
}

function RegExp_escape(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
}

function onTerminal(words: string[], { columns, rows }: { columns: number; rows: number }): string[] {
  const quoted = words.map((word) => `'${word.replaceAll("'", "'\\''")}'`).join(" ");
  return ["script", "-qefc", `stty cols ${columns} rows ${rows}; exec ${quoted}`, "/dev/null"];
}

export const CTRL_C = "\x03";

export function start(words: string[], options: Options = {}): Run {
  return new Run(words, options);
}

/** Runs it to its end. */
export async function call(words: string[], options: Options = {}) {
  const run = start(words, options);
  const { code, signal } = await run.ended;
  return { code, signal, stdout: run.stdout, stderr: run.stderr };
}

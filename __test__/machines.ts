/** Agents in odd surroundings: mounts of their own, no rights, no descriptors. */

import { spawn, spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import path from "node:path";
import { onTestFinished } from "vitest";

import { Agent, temporaryFolder } from "./support.js";

/** A mount namespace, and a folder in which a file system is mounted there. */
export class Mounts {
  /** For images, lower folders and the like. */
  readonly scratch = temporaryFolder();
  /** As its agents see it. */
  readonly folder = path.join(this.scratch, "mounted");
  readonly #keeper: Agent;

  private constructor(keeper: Agent) {
    this.#keeper = keeper;
    mkdirSync(this.folder);
  }

  static async start(): Promise<Mounts> {
    return new Mounts(await Agent.start({ through: ["unshare", "-m"] }));
  }

  /** A command that runs another one in the namespace. */
  through(...command: string[]): string[] {
    return ["nsenter", "-t", String(this.#keeper.pid), "-m", ...command];
  }

  /** `folder` as this process sees it. */
  get view(): string {
    return `/proc/${this.#keeper.pid}/root${this.folder}`;
  }

  get sessionFile(): string {
    return path.join(this.folder, "chat.jsonl");
  }

  agent(): Promise<Agent> {
    return Agent.start({ through: this.through() });
  }

  run(...command: string[]): void {
    const [program, ...args] = this.through(...command);
    const { status, stderr } = spawnSync(program!, args, { encoding: "utf8" });
    if (status !== 0) {
      throw new Error(`${command.join(" ")}: ${stderr}`);
    }
  }

  tmpfs(...options: string[]): void {
    this.run("mount", "-t", "tmpfs", ...options, "none", this.folder);
  }

  /** A file system in a file. */
  image(megabytes: number, ...make: string[]): void {
    const image = path.join(this.scratch, "image");
    writeFileSync(image, "");
    truncateSync(image, megabytes * 1024 * 1024);
    this.run(...make, image);
    this.run("mount", "-o", "loop", image, this.folder);
  }

  /** A file system that a process serves; it is mounted some time after that has started. */
  async serve(...command: string[]): Promise<void> {
    const [program, ...args] = this.through("setpriv", "--pdeathsig", "KILL", ...command);
    const server = spawn(program!, args, { stdio: ["ignore", "ignore", "pipe"] });
    onTestFinished(() => void server.kill("SIGKILL"));
    let output = "";
    server.stderr.on("data", (data) => {
      output += data;
    });
    for (let looks = 0; looks < 500; looks += 1) {
      if (readFileSync(`/proc/${this.#keeper.pid}/mounts`, "utf8").includes(` ${this.folder} `)) {
        return;
      }
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    throw new Error(`${command.join(" ")} mounted nothing: ${output}`);
  }

  /** Two folders for an overlay, and one for its work. */
  layers(): { lower: string; upper: string; work: string } {
    const base = path.join(this.scratch, "layers");
    mkdirSync(base);
    this.run("mount", "-t", "tmpfs", "none", base); // an overlay's layers can't be an overlay
    const layers = { lower: `${base}/lower`, upper: `${base}/upper`, work: `${base}/work` };
    this.run("mkdir", ...Object.values(layers));
    return layers;
  }
}

/** An agent that was root when it started, and is nobody now. */
export async function startNobody(): Promise<Agent> {
  const agent = await Agent.start();
  await agent.run(() => {
    process.setgroups!([]);
    process.setgid!(65_534);
    process.setuid!(65_534);
  });
  return agent;
}

/** An agent with all its descriptors in use; `freeDescriptor` gives it one back. */
export async function startExhausted(): Promise<Agent> {
  const agent = await Agent.start();
  spawnSync("prlimit", ["--pid", String(agent.pid), "--nofile=64:64"]);
  await agent.run(({ kept, require }) => {
    const fs = require("node:fs");
    const descriptors: number[] = [];
    kept.set("descriptors", descriptors);
    try {
      for (;;) {
        descriptors.push(fs.openSync("/dev/null"));
      }
    } catch (error: any) {
      if (error.code !== "EMFILE") {
        throw error;
      }
    }
  });
  return agent;
}

export function freeDescriptor(agent: Agent): Promise<void> {
  return agent.run(({ kept, require }) => require("node:fs").closeSync(kept.get("descriptors").pop()));
}

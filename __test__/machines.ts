/** Agents in odd surroundings: mounts of their own, no rights, no descriptors. */

import { spawn, spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import path from "node:path";
import { onTestFinished } from "vitest";

import { Agent, DEAD_RECORDS, succeeds, temporaryFolder } from "./support.js";

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

  run(...command: string[]): string {
    const [program, ...args] = this.through(...command);
    const { status, stdout, stderr } = spawnSync(program!, args, { encoding: "utf8" });
    if (status !== 0) {
      throw new Error(`${command.join(" ")}: ${stderr}`);
    }
    return stdout;
  }

  tmpfs(...options: string[]): void {
    this.run("mount", "-t", "tmpfs", ...options, "none", this.folder);
  }

  /** A file for a file system. */
  file(megabytes: number): string {
    const image = path.join(this.scratch, "image");
    writeFileSync(image, "");
    truncateSync(image, megabytes * 1024 * 1024);
    return image;
  }

  /** A file system in a file. */
  image(megabytes: number, ...make: string[]): void {
    const image = this.file(megabytes);
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

// --- File systems -------------------------------------------------------------------------------

export interface FileSystem {
  /** What must be installed. */
  tools?: string[];
  /** What the kernel must know. */
  kernel: string;
  mount(mounts: Mounts): void | Promise<void>;
}

export const FILE_SYSTEMS: Record<string, FileSystem> = {
  tmpfs: { kernel: "tmpfs", mount: (mounts) => mounts.tmpfs() },
  ext4: {
    kernel: "ext4",
    tools: ["mkfs.ext4"],
    mount: (mounts) => mounts.image(16, "mkfs.ext4", "-q"),
  },
  xfs: {
    kernel: "xfs",
    tools: ["mkfs.xfs"],
    mount: (mounts) => mounts.image(320, "mkfs.xfs", "-q"),
  },
  btrfs: {
    kernel: "btrfs",
    tools: ["mkfs.btrfs"],
    mount: (mounts) => mounts.image(128, "mkfs.btrfs", "-q"),
  },
  f2fs: { kernel: "f2fs", tools: ["mkfs.f2fs"], mount: (mounts) => mounts.image(64, "mkfs.f2fs", "-q") },
  // No hard links: here a lock file is created in place.
  vfat: {
    kernel: "vfat",
    tools: ["mkfs.vfat"],
    mount: (mounts) => mounts.image(16, "mkfs.vfat"),
  },
  overlayfs: {
    kernel: "overlay",
    mount: (mounts) => {
      const { lower, upper, work } = mounts.layers();
      const options = `lowerdir=${lower},upperdir=${upper},workdir=${work}`;
      mounts.run("mount", "-t", "overlay", "-o", options, "none", mounts.folder);
    },
  },
  // Two merged views of one lower layer, in which a dead lock lies: each has a lock of its own.
  "overlayfs twice": {
    kernel: "overlay",
    mount: (mounts) => {
      const { lower, upper, work } = mounts.layers();
      const second = path.join(mounts.scratch, "second");
      mounts.run("mkdir", second, `${upper}.2`, `${work}.2`);
      mounts.run("sh", "-c", `printf '%s' "$0" > ${lower}/chat.jsonl.lock`, DEAD_RECORDS["the addon"]);
      for (const [number, folder] of [["", mounts.folder], [".2", second]]) {
        const options = `lowerdir=${lower},upperdir=${upper}${number},workdir=${work}${number}`;
        mounts.run("mount", "-t", "overlay", "-o", options, "none", folder!);
      }
    },
  },
  // Neither unnamed files nor exchanging renames, and a flock that proves nothing.
  bindfs: {
    kernel: "fuse",
    tools: ["bindfs"],
    mount: (mounts) => {
      const { upper } = mounts.layers();
      return mounts.serve("bindfs", "-f", upper, mounts.folder);
    },
  },
  // The same, and the server keeps the flocks.
  "bindfs with locks": {
    kernel: "fuse",
    tools: ["bindfs"],
    mount: (mounts) => {
      const { upper } = mounts.layers();
      return mounts.serve("bindfs", "-f", "--enable-lock-forwarding", "--multithreaded", upper, mounts.folder);
    },
  },
  // No hard links.
  "exfat-fuse": {
    kernel: "fuse",
    tools: ["mount.exfat-fuse", "mkfs.exfat"],
    mount: async (mounts) => {
      const image = mounts.file(16);
      mounts.run("mkfs.exfat", image);
      const device = mounts.run("losetup", "--find", "--show", image).trim();
      await mounts.serve("mount.exfat-fuse", "-d", "-o", "allow_other,umask=000", device, mounts.folder);
      mounts.run("losetup", "--detach", device); // as soon as it is not mounted any more
    },
  },
  "fuse-overlayfs": {
    kernel: "fuse",
    tools: ["fuse-overlayfs"],
    mount: (mounts) => {
      const { lower, upper, work } = mounts.layers();
      const options = `lowerdir=${lower},upperdir=${upper},workdir=${work}`;
      return mounts.serve("fuse-overlayfs", "-f", "-o", options, mounts.folder);
    },
  },
};

/** What the machine lacks for a file system, if anything. */
export function lackFor({ tools = [], kernel }: FileSystem): string | undefined {
  const known = () => readFileSync("/proc/filesystems", "utf8").split(/\s+/).includes(kernel);
  if (!known() && !(succeeds("modprobe", kernel) && known())) {
    return `a kernel with ${kernel}`;
  }
  return tools.find((tool) => !succeeds("sh", "-c", `command -v ${tool}`));
}

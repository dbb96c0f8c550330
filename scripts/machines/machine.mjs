// A virtual machine under qemu, by software emulation, and what can be asked of it.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, openSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";

/** Where the machines of this run hear each other. */
const GROUP = `239.255.77.1:${20_000 + (process.pid % 20_000)}`;

const MEMORY_MB = 1024;

/** How long a machine takes to start, at most. */
const START_MS = 120_000;

export class Machine {
  #requests = new Map();
  #nextId = 1;

  /** `address`: in 10.0.0.0/24. `clockMs`: how far its clock is off. `disk`: a file. */
  constructor({ name, address, image, clockMs = 0, disk }) {
    Object.assign(this, { name, address, image, clockMs, disk });
  }

  async start() {
    const folder = mkdtempSync(path.join(tmpdir(), "machine-"));
    const socket = path.join(folder, "port");
    this.console = path.join(folder, "console");
    const seconds = Math.floor((Date.now() + this.clockMs) / 1000);
    const words = [
      "console=ttyS0 quiet panic=-1",
      `machine.name=${this.name} machine.address=${this.address} machine.clock=${seconds}`,
    ];
    const mac = `52:54:00:00:00:${this.address.split(".")[3].padStart(2, "0")}`;
    const disk = this.disk ? ["-drive", `file=${this.disk},format=raw,if=virtio,cache=writeback`] : [];
    const log = openSync(this.console, "w");
    this.process = spawn(
      "qemu-system-x86_64",
      [
        ["-accel", "tcg,thread=multi", "-cpu", "max", "-m", String(MEMORY_MB)],
        ["-display", "none", "-no-reboot", "-nodefaults", "-serial", "stdio"],
        ["-chardev", `socket,id=port,path=${socket},server=on,wait=on`, "-serial", "chardev:port"],
        ["-netdev", `socket,id=net,mcast=${GROUP},localaddr=127.0.0.1`],
        ["-device", `virtio-net-pci,netdev=net,mac=${mac}`],
        disk,
        ["-kernel", this.image.kernel, "-initrd", this.image.initrd, "-append", words.join(" ")],
      ].flat(),
      { stdio: ["ignore", log, log] },
    );
    process.once("exit", () => this.process.kill("SIGKILL"));
    await once(this.process, "spawn");
    this.socket = await connected(socket);
    const lines = createInterface({ input: this.socket });
    const ready = new Promise((resolve, reject) => {
      lines.on("line", (line) => {
        const { id, error, value } = JSON.parse(line);
        if (id === 0) {
          resolve();
        }
        const request = this.#requests.get(id);
        this.#requests.delete(id);
        if (error) {
          request?.reject(Object.assign(new Error(`${this.name}: ${error.message}`), error));
        } else {
          request?.resolve(value);
        }
      });
      this.process.once("exit", () => {
        reject(new Error(`${this.name} did not start: see ${this.console}`));
        for (const request of this.#requests.values()) {
          request.reject(new Error(`${this.name} is gone`));
        }
      });
      setTimeout(() => reject(new Error(`${this.name} did not start: see ${this.console}`)), START_MS).unref();
    });
    await ready;
    return this;
  }

  #ask(message) {
    const id = this.#nextId++;
    const answer = new Promise((resolve, reject) => this.#requests.set(id, { resolve, reject }));
    answer.catch(() => {}); // a machine that is killed leaves questions
    this.socket.write(`${JSON.stringify({ id, ...message })}\n`);
    return answer;
  }

  /** Runs a command, and gives what it prints. */
  sh(command) {
    return this.#ask({ sh: command });
  }

  /** A process with the addon on this machine: `actor("a").lock(file)`. */
  actor(name) {
    return new Proxy({}, { get: (_, op) => (...args) => this.#ask({ actor: name, op, args }) });
  }

  /** Cuts its network off, or puts it back. */
  async network(isUp) {
    await this.sh(`ip link set eth0 ${isUp ? "up" : "down"}`);
  }

  /** As a power cut. */
  async kill() {
    if (this.process.exitCode === null && this.process.signalCode === null) {
      const ended = once(this.process, "exit");
      this.process.kill("SIGKILL");
      await ended;
    }
  }
}

async function connected(file) {
  for (;;) {
    const socket = connect(file);
    try {
      await once(socket, "connect");
      return socket;
    } catch {
      await sleep(20);
    }
  }
}

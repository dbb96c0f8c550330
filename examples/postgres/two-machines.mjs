/**
 * Two machines write into one conversation, and the network of one of them is cut. Nothing is lost, nothing is written
 * twice, and the numbers of the messages have no gap.
 *
 * The machines are network namespaces of Linux, so this needs root, `unshare`, `nsenter`, `ip` and a PostgreSQL server.
 * It takes about a minute. `node two-machines.mjs`
 */

import { execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import pg from "pg";
import { postgresLocks } from "session-write-lock/postgres";
import { startPostgres } from "../../scripts/postgres-server.mjs";

const GATEWAY = fileURLToPath(new URL("gateway.mjs", import.meta.url));
const MESSAGES = 200;

// The server gets a namespace of its own, too. All of them end with their processes.
if (process.argv[2] !== "inside") {
  const { status } = spawnSync("unshare", ["--net", process.execPath, fileURLToPath(import.meta.url), "inside"], { stdio: "inherit" });
  process.exit(status ?? 1);
}

const startedAt = Date.now();
const tell = (text) => console.log(`${((Date.now() - startedAt) / 1_000).toFixed(1).padStart(5)} s  ${text}`);
const ip = (...args) => execFileSync("ip", args);

/** A namespace with a cable to the server: a process that lives as long as we do. */
async function startMachine(name, network) {
  const machine = spawn("unshare", ["--net", "sh", "-c", "echo ready; exec cat"], { stdio: ["pipe", "pipe", "inherit"] });
  await once(machine.stdout, "data");
  ip("link", "add", `cable-${name}`, "type", "veth", "peer", "name", "eth0", "netns", String(machine.pid));
  ip("addr", "add", `10.213.${network}.1/24`, "dev", `cable-${name}`);
  ip("link", "set", `cable-${name}`, "up");
  const inside = (...command) => ["nsenter", "--net", "--target", String(machine.pid), ...command];
  for (const command of [["addr", "add", `10.213.${network}.2/24`, "dev", "eth0"], ["link", "set", "eth0", "up"]]) {
    execFileSync("env", inside("ip", ...command));
  }
  return {
    cable: (state) => ip("link", "set", `cable-${name}`, state),
    run(port) {
      const address = `postgres://test@10.213.${network}.1:${port}/postgres`;
      const gateway = spawn("env", inside(process.execPath, GATEWAY, name, String(MESSAGES), address));
      gateway.stderr.pipe(process.stderr);
      return gateway;
    },
    end: () => machine.stdin.end(),
  };
}

ip("link", "set", "lo", "up");
const [a, b] = [await startMachine("a", 1), await startMachine("b", 2)];
const server = await startPostgres({ host: "*" });
const sql = new pg.Pool({ host: "127.0.0.1", port: server.port, user: "test", database: "postgres" });
let gateways = {};
try {
  const locks = postgresLocks({ pool: sql });
  await locks.migrate();
  await locks.close();
  await sql.query("CREATE TABLE messages (conversation text, number integer, text text UNIQUE, PRIMARY KEY (conversation, number))");

  const wrote = { a: 0, b: 0 };
  gateways = { a: a.run(server.port), b: b.run(server.port) };
  const ended = Promise.all(Object.values(gateways).map((gateway) => once(gateway, "close")));
  let failures = 0;
  for (const [name, gateway] of Object.entries(gateways)) {
    createInterface({ input: gateway.stdout }).on("line", (line) => {
      if (line.includes("failed")) {
        failures += 1;
        tell(line);
      } else {
        wrote[name] += 1;
      }
    });
  }
  const until = async (isSo) => {
    for (const deadline = Date.now() + 60_000; !(await isSo()); await delay(5)) {
      if (Date.now() > deadline) {
        throw new Error("nothing has happened for a minute");
      }
    }
  };
  await until(() => wrote.a >= 50 && wrote.b >= 50);
  // At a moment when machine a writes, so that its lock is what the cut takes. Stopped, it can't go on meanwhile.
  await until(async () => {
    gateways.a.kill("SIGSTOP");
    await delay(50); // what it has sent before arrives
    const { rows } = await sql.query("SELECT state FROM pg_stat_activity WHERE client_addr = '10.213.1.2'");
    const isWriting = rows.some(({ state }) => state === "idle in transaction");
    if (!isWriting) {
      gateways.a.kill("SIGCONT");
    }
    return isWriting;
  });
  a.cable("down");
  gateways.a.kill("SIGCONT");
  const before = { ...wrote };
  tell(`the network of machine a is cut; a wrote ${before.a} messages, b wrote ${before.b}`);
  await until(() => wrote.b > before.b + 3);
  tell("machine b goes on: the server has freed the lock");
  await until(() => failures > 0);
  a.cable("up");
  tell("the network is back");
  await ended;
  const { rows } = await sql.query(
    "SELECT count(*)::int AS messages, count(DISTINCT text)::int AS texts, min(number) AS first, max(number) AS last FROM messages",
  );
  const [{ messages, texts, first, last }] = rows;
  tell(`${messages} messages, ${texts} different ones, numbered ${first} to ${last}`);
  const isWhole = [messages, texts, last].every((n) => n === 2 * MESSAGES) && first === 1 && failures > 0;
  tell(isWhole ? "nothing was lost, nothing was written twice" : "SOMETHING IS WRONG");
  process.exitCode = isWhole ? 0 : 1;
} finally {
  Object.values(gateways).forEach((gateway) => gateway.kill("SIGKILL"));
  await sql.end();
  server.stop();
  a.end();
  b.end();
}

/**
 * A PostgreSQL server of one's own, in a temporary folder, for tests and measurements. It listens on a free port of
 * this machine only, and ends with `stop`.
 */

import { execFileSync } from "node:child_process";
import fs from "node:fs";
import net from "node:net";
import os from "node:os";
import path from "node:path";

/** The folder of the server's programs; `undefined` where there is no server, or none that can be run. */
export function findPostgres() {
  const debian = "/usr/lib/postgresql";
  const versions = fs.existsSync(debian) ? fs.readdirSync(debian).sort((a, b) => Number(b) - Number(a)) : [];
  const folders = [...versions.map((version) => path.join(debian, version, "bin")), ...process.env.PATH.split(":")];
  const bin = folders.find((folder) => fs.existsSync(path.join(folder, "initdb")));
  // The server refuses to run as root. Then it runs as the user that its package made.
  return bin && (process.getuid() !== 0 || hasUser("postgres")) ? bin : undefined;
}

function hasUser(name) {
  return fs.readFileSync("/etc/passwd", "utf8").includes(`\n${name}:`);
}

/** Starts a server. `host` is the address to listen on, `settings` are lines of its configuration. */
export async function startPostgres({ host = "127.0.0.1", settings = {} } = {}) {
  const bin = findPostgres();
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "swl-postgres-"));
  const data = path.join(folder, "data");
  const port = await freePort();
  const asServer = process.getuid() === 0 ? ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] : [];
  if (asServer.length > 0) {
    execFileSync("chown", ["postgres:", folder]);
  }
  const run = (name, ...args) => {
    const [command, ...rest] = [...asServer, path.join(bin, name), ...args];
    return execFileSync(command, rest, { cwd: folder, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
  };
  run("initdb", "--pgdata", data, "--username", "test", "--auth", "trust", "--no-sync", "--locale", "C", "--encoding", "UTF8");
  const configuration = {
    listen_addresses: `'${host}'`,
    port,
    unix_socket_directories: `'${folder}'`,
    max_connections: 60,
    logging_collector: "off",
    ...settings,
  };
  const lines = Object.entries(configuration).map(([name, value]) => `${name} = ${value}\n`);
  fs.appendFileSync(path.join(data, "postgresql.conf"), lines.join(""));
  fs.appendFileSync(path.join(data, "pg_hba.conf"), "host all all 0.0.0.0/0 trust\n");
  const control = (...args) => run("pg_ctl", "--pgdata", data, "--log", path.join(folder, "log"), "--wait", ...args);
  control("start");
  return {
    port,
    folder,
    connectionString: `postgres://test@${host}:${port}/postgres`,
    /** `fast` ends the connections; `immediate` is a crash. */
    restart: (mode = "fast") => control("restart", "--mode", mode),
    stop() {
      control("stop", "--mode", "immediate");
      fs.rmSync(folder, { recursive: true });
    },
  };
}

/** A port of this machine on which nobody listens. */
export function freePort() {
  return new Promise((resolve, reject) => {
    const server = net.createServer().once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}


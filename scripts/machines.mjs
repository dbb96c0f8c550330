// Two virtual machines that share folders of a third one over NFS: what happens to a lock when one of them is
// killed, is cut off, or the server restarts. `npm run test:machines -- [--lease SECONDS]`; with the server's usual
// lease of 90 s it takes some ten minutes. Prints the table that docs/testing.md shows.

import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";

import { makeImage, reasonAgainst } from "./machines/image.mjs";
import { Machine } from "./machines/machine.mjs";

const { values } = parseArgs({ options: { lease: { type: "string", default: "90" } } });
const LEASE_S = Number(values.lease);

/** How long before the lease ends by the server's clock the client may have been heard for the last time: clients
 * renew when two thirds of it are over. */
const HEARD_BEFORE_S = (LEASE_S * 2) / 3;

/** How long after the lease a waiter may need. */
const TAKEN_WITHIN_S = 5;

/** How long after its machine is back a holder may believe in a lock that it has lost. */
const TOLD_WITHIN_S = 10;

const SHORT_CUT_S = LEASE_S / 3;
const LONG_CUT_S = LEASE_S * 2;

/** The ways to mount the shared folder. A file belongs to one mount: each uses names of its own. */
const MOUNTS = ["4.2", "4.1", "4.0"].map((version) => ({ name: `NFS ${version}`, version, folder: `/mnt/${version}` }));

const HOUR_MS = 3_600_000;

// --- The machines -------------------------------------------------------------------------------------

const EXPORT = "/srv/shared *(rw,fsid=0,no_root_squash,no_subtree_check,sync,insecure)";

const SERVE = `
  mkdir -p /srv && mount -t ext4 /dev/vda /srv && mkdir -p /srv/shared /srv/nfs/nfsdcld /srv/nfs/rpc_pipefs
  mount --bind /srv/nfs /var/lib/nfs && touch /var/lib/nfs/etab /var/lib/nfs/rmtab
  modprobe nfsd && mount -t rpc_pipefs pipes /var/lib/nfs/rpc_pipefs && mount -t nfsd nfsd /proc/fs/nfsd
  echo '${EXPORT}' >/etc/exports
  echo ${LEASE_S} >/proc/fs/nfsd/nfsv4leasetime && echo ${LEASE_S} >/proc/fs/nfsd/nfsv4gracetime
  nfsdcld && exportfs -ra && rpc.nfsd -N 3 8 && rpc.mountd -N 3`;

async function startServer(image, disk) {
  const server = await new Machine({ name: "server", address: "10.0.0.1", image, disk }).start();
  await server.sh(SERVE);
  return server;
}

async function startClient(image, parameters) {
  const client = await new Machine({ image, ...parameters }).start();
  for (const { version, folder } of MOUNTS) {
    await client.sh(`modprobe nfsv4 && mkdir -p ${folder} && mount.nfs -o vers=${version} 10.0.0.1:/ ${folder}`);
  }
  return client;
}

// --- The events ---------------------------------------------------------------------------------------

/** By event, and by the name of the mount. */
const outcomes = new Map();
let failures = 0;

function report(mount, event, outcome, seconds, isRight) {
  const all = seconds === undefined ? outcome : `${outcome}, ${seconds.toFixed(1)} s`;
  outcomes.set(event, { ...outcomes.get(event), [mount.name]: all });
  failures += isRight ? 0 : 1;
  console.log(`${isRight ? "ok  " : "FAIL"} ${mount.name}: ${event}: ${all}`);
}

function table() {
  const names = MOUNTS.map(({ name }) => name);
  const row = (cells) => `| ${cells.join(" | ")} |`;
  const rows = [...outcomes].map(([event, by]) => row([event, ...names.map((name) => by[name] ?? "")]));
  return [row(["event", ...names]), row(["---", ...names.map(() => "---")]), ...rows].join("\n");
}

const since = (start) => (performance.now() - start) / 1000;

/** What a promise came to so far, if it has. */
function observe(promise) {
  const it = { start: performance.now(), value: undefined, error: undefined, seconds: undefined };
  it.settled = promise.then(
    (value) => Object.assign(it, { value, seconds: since(it.start) }),
    (error) => Object.assign(it, { error, seconds: since(it.start) }),
  );
  return it;
}

const WAIT = { timeoutMs: 900_000 };

/** Processes add to one number in a file. `where`: for each its machine, and the folder as it is seen there. */
async function count(mount, name, who, where) {
  const TIMES = 10;
  const file = `${name}-${mount.version}`;
  const [[machine, folder]] = where;
  await machine.sh(`echo 0 >${folder}/${file}.number`);
  const start = performance.now();
  const counting = where.map(([machine, folder], number) =>
    machine.actor(`${number} ${mount.name}`).count(`${folder}/${file}`, TIMES, `${folder}/${file}.number`),
  );
  const taken = (await Promise.all(counting)).reduce((one, other) => one + other);
  const sum = Number(await machine.sh(`cat ${folder}/${file}.number`));
  const all = TIMES * where.length;
  const outcome = `${all - sum} lost, ${taken} taken over`;
  report(mount, `${all} critical sections by ${who}`, outcome, since(start), sum === all && taken === 0);
}

/** Has `holder` hold a lock of its own for this event. */
async function hold(mount, event, holder, name = "holder") {
  const file = `${mount.folder}/${event}-${mount.version}`;
  const its = holder.actor(`${name} ${mount.name}`);
  await its.lock(file);
  return { file, its };
}

/** The same, and has `waiter` wait for it. */
async function contend(mount, event, holder, waiter) {
  const { file, its } = await hold(mount, event, holder);
  const other = waiter.actor(`waiter ${mount.name}`);
  const wait = observe(other.lock(file, WAIT));
  return { file, its, other, wait };
}

async function handOver(mount, a, b) {
  const { file, its, other, wait } = await contend(mount, "hand-over", a, b);
  await sleep(1_000);
  const { verdict, ground } = await other.inspect(file);
  const isTaken = wait.seconds !== undefined || (await other.tryLock(file));
  report(mount, "clocks an hour apart", `${verdict}, by ${ground}`, undefined, !isTaken && verdict === "held");
  const start = performance.now();
  await its.release(file);
  await wait.settled;
  report(mount, "release", "handed over", since(start), !wait.error);
  await other.release(file);
}

/** A program on the server itself does not see the clients' flocks, nor they its. */
async function onTheServer(mount, server, machine, who) {
  const [program, client] = [server.actor(`program ${mount.name}`), machine.actor(`client ${mount.name}`)];
  const [here, there] = [`/srv/shared/direct-${mount.version}`, `${mount.folder}/direct-${mount.version}`];
  for (const [holder, its, other, path] of [[client, there, program, here], [program, here, client, there]]) {
    await holder.lock(its);
    const { verdict, ground } = await other.inspect(path);
    const isTaken = await other.tryLock(path);
    const event = holder === client ? `a program on the server looks at the lock of ${who}` : `${who} looks at that program's`;
    report(mount, event, `${isTaken ? "taken" : "not taken"}; ${verdict}, by ${ground}`, undefined, !isTaken);
    await holder.release(its);
  }
}

async function shortCut(mount, { file, its, other, wait }) {
  const wasTaken = wait.seconds !== undefined;
  const isHeld = await its.held(file);
  report(mount, `holder cut off for ${SHORT_CUT_S} s`, wasTaken ? "taken over" : "still held", undefined, !wasTaken && isHeld);
  await its.release(file);
  await wait.settled;
  await other.release(file);
}

async function longCut(mount, { file, its, other, wait }, cutAt, backAt) {
  const event = `holder cut off for ${LONG_CUT_S} s`;
  await wait.settled;
  const takenAfter = (wait.start - cutAt) / 1000 + wait.seconds;
  const isInTime = takenAfter >= LEASE_S - HEARD_BEFORE_S - 1 && takenAfter <= LEASE_S + TAKEN_WITHIN_S;
  report(mount, event, wait.error ? wait.error.message : "taken over", takenAfter, isInTime && !wait.error);
  await expectTold(mount, "its signal, once it is back", its, file, backAt);
  const [isHeld, isTheirs] = [await its.held(file), await other.held(file)];
  const release = await its.release(file).then(() => "resolves", (error) => error.code);
  const isRight = !isHeld && isTheirs && release === "ERR_LOCK_LOST";
  report(mount, "its `held` and `release()` then", `${isHeld}, ${release}`, undefined, isRight);
  await other.release(file);
}

/** Has a process of `a` hold a lock that it took over, so that its file has one name only, and one of `b` wait for it. That
 * one then gets the lock again and again, so that the file's number is given to another one. */
async function contendForNumber(mount, a, b) {
  const { file, its: dead } = await hold(mount, "number", a, "short-lived");
  await a.sh(`kill -9 ${await dead.pid()}`);
  const [its, other] = [a.actor(`taker ${mount.name}`), b.actor(`successor ${mount.name}`)];
  const isTakenOver = await its.lockUnheard(file, WAIT);
  return { file, its, isTakenOver, other, wait: observe(other.lockAgain(file, 6, WAIT)) };
}

/** Its file is gone, and the successor's may have its number. */
async function successor(mount, { file, its, isTakenOver, other, wait }) {
  await wait.settled;
  const wasHeld = await its.held(file);
  const release = await its.release(file).then(() => "resolves", (error) => error.code);
  const isTheirs = await other.held(file);
  const isRight = isTakenOver && !wait.error && !wasHeld && isTheirs && release === "ERR_LOCK_LOST";
  const event = "the same after five more holders: its `held` and `release()`, and the lock of the sixth";
  report(mount, event, `${wasHeld}, ${release}, ${isTheirs ? "held" : "lost"}`, undefined, isRight);
  await other.release(file);
}

/** Its signal says that the lock is lost, soon after its machine is back. */
async function expectTold(mount, event, its, file, backAt) {
  let lost = null;
  while (lost === null && since(backAt) < TOLD_WITHIN_S + 5) {
    lost = await its.lost(file);
    await sleep(100);
  }
  const toldAfter = lost === null ? Infinity : since(backAt) - lost.agoMs / 1000;
  report(mount, event, lost?.how ?? "silent", toldAfter, toldAfter <= TOLD_WITHIN_S);
}

/** Nobody has taken the lock: only the server knows that it is gone. */
async function forgotten(mount, { file, its }, backAt) {
  const event = "holder cut off while the server starts again";
  await expectTold(mount, `${event}: its signal, once it is back`, its, file, backAt);
  const isHeld = await its.held(file);
  const release = await its.release(file).then(() => "resolves", (error) => error.code);
  const isRight = !isHeld && release === "ERR_LOCK_LOST";
  report(mount, `${event}: its \`held\` and \`release()\` then`, `${isHeld}, ${release}`, undefined, isRight);
}

async function restart(mount, { file, its, other, wait }, downAt) {
  const wasTaken = wait.seconds !== undefined;
  const isHeld = await its.held(file); // waits until the server is back
  const event = "server killed and started again";
  const isRight = !wasTaken && wait.seconds === undefined && isHeld;
  report(mount, event, isRight ? "still held" : "lost", since(downAt), isRight);
  const start = performance.now();
  await its.release(file);
  await wait.settled;
  report(mount, "release after it", "handed over", since(start), !wait.error);
  await other.release(file);
}

async function killed(mount, event, { file, other, wait }, killedAt, within) {
  await wait.settled;
  const seconds = (wait.start - killedAt) / 1000 + wait.seconds;
  report(mount, event, wait.error ? wait.error.message : "taken over", seconds, !wait.error && seconds <= within);
  await other.release(file);
}

// --- All of it ----------------------------------------------------------------------------------------

const forEachMount = (what) => Promise.all(MOUNTS.map(what));

async function test(image, disk, machines) {
  let server = await startServer(image, disk);
  machines.add(server);
  const [a, b] = await Promise.all([
    startClient(image, { name: "a", address: "10.0.0.2" }),
    startClient(image, { name: "b", address: "10.0.0.3", clockMs: HOUR_MS }),
  ]);
  machines.add(a).add(b);
  console.log(`three machines, Linux ${await a.sh("uname -r")}, lease ${LEASE_S} s`);

  await forEachMount((mount) => count(mount, "clients", "four processes", [a, a, b, b].map((on) => [on, mount.folder])));
  await forEachMount((mount) => handOver(mount, a, b));

  await forEachMount((mount) => onTheServer(mount, server, a, "a client"));
  await forEachMount((mount) => onTheServer(mount, server, b, "a client whose clock is an hour ahead"));
  await forEachMount((mount) => {
    const where = [[a, mount.folder], [b, mount.folder], [server, "/srv/shared"]];
    return count(mount, "beside", "two clients and a program on the server", where);
  });

  const short = await forEachMount((mount) => contend(mount, "short-cut", a, b));
  await a.network(false);
  await sleep(SHORT_CUT_S * 1000);
  await a.network(true);
  await sleep(1_000);
  await forEachMount((mount, number) => shortCut(mount, short[number]));

  const long = await forEachMount((mount) => contend(mount, "long-cut", a, b));
  const reused = await forEachMount((mount) => contendForNumber(mount, a, b));
  const cutAt = performance.now();
  await a.network(false);
  await sleep(LONG_CUT_S * 1000);
  await a.network(true);
  const backAt = performance.now();
  await forEachMount((mount, number) => longCut(mount, long[number], cutAt, backAt));
  await forEachMount((mount, number) => successor(mount, reused[number]));

  const startServerAgain = async () => {
    await server.kill();
    machines.delete(server);
    server = await startServer(image, disk);
    machines.add(server);
  };

  const restarted = await forEachMount((mount) => contend(mount, "restart", a, b));
  const downAt = performance.now();
  await startServerAgain();
  await forEachMount((mount, number) => restart(mount, restarted[number], downAt));

  const unheard = await forEachMount((mount) => hold(mount, "unheard", a));
  await a.network(false);
  await startServerAgain();
  await sleep((LEASE_S + TAKEN_WITHIN_S) * 1000); // its grace period
  await a.network(true);
  const heardAt = performance.now();
  await forEachMount((mount, number) => forgotten(mount, unheard[number], heardAt));

  const shot = await forEachMount((mount) => contend(mount, "shot", a, b));
  const shotAt = performance.now();
  await forEachMount(async (mount, number) => a.sh(`kill -9 ${await shot[number].its.pid()}`));
  const ofAProcess = "holder's process killed";
  await forEachMount((mount, number) => killed(mount, ofAProcess, shot[number], shotAt, TAKEN_WITHIN_S));

  const alone = await forEachMount((mount) => contend(mount, "killed", a, b));
  const killedAt = performance.now();
  await a.kill();
  await sleep((LEASE_S + TAKEN_WITHIN_S) * 1000);
  const ofAMachine = "holder's machine killed";
  await forEachMount((mount, number) => killed(mount, ofAMachine, alone[number], killedAt, LEASE_S + TAKEN_WITHIN_S));
}

const reason = reasonAgainst();
if (reason) {
  console.log(`skipped: ${reason}`);
  process.exit(0);
}
const folder = mkdtempSync(path.join(tmpdir(), "machines-"));
const disk = path.join(folder, "disk");
writeFileSync(disk, "");
truncateSync(disk, 256 * 1024 * 1024);
execFileSync("mkfs.ext4", ["-q", "-F", disk]);
const machines = new Set();
try {
  await test(makeImage(), disk, machines);
} catch (error) {
  failures += 1;
  console.error(error);
  for (const { name, console: log } of machines) {
    console.error(`--- ${name}\n${readFileSync(log, "utf8").slice(-2_000)}`);
  }
} finally {
  await Promise.all([...machines].map((machine) => machine.kill()));
  rmSync(folder, { recursive: true });
}
console.log(`\n${table()}`);
console.log(failures === 0 ? "\nall as promised" : `\n${failures} not as promised`);
process.exit(failures === 0 ? 0 : 1);

/**
 * Every kind of neighbour on every kind of file system: does the lock exclude, does a live holder keep it, is a dead
 * holder's lock taken over, is nothing left? The outcome of each cell is in a table of docs/testing.md, and is compared
 * with it. `WRITE_WORLDS=1 npx vitest run worlds` writes the table.
 */

import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { afterAll, expect } from "vitest";

import { FILE_SYSTEMS, lackFor, Mounts } from "./machines.js";
import { Agent, asAnotherUser, root, skipAloud, testWith } from "./support.js";

/** A live lock isn't taken in this time. */
const SHORT_MS = 30;

/** Nor is a dead one, where only its age can prove it dead. Elsewhere it is taken long before. */
const AT_ONCE_MS = 1_500;

/** Where the neighbour is, as a command that starts it. */
const THERE: Record<string, (mounts: Mounts) => string[]> = {
  "another process": () => [],
  "pid namespace": () => ["unshare", "-pfm", "--mount-proc", "--kill-child"],
  "mount namespace": () => ["unshare", "-m"],
  "another user": () => asAnotherUser,
  "hidepid=2": () => ["unshare", "-m", "sh", "-c", `mount -t proc -o hidepid=2 none /proc && exec "$0" "$@"`, ...asAnotherUser],
  "no /proc": () => ["unshare", "-m", "sh", "-c", `umount -l /proc && exec "$0" "$@"`],
  "time namespace": () => ["unshare", "-T", "--boottime", "1000000", "-f", "--kill-child"],
  "--permission": ({ folder }) => {
    const flag = process.versions.node.startsWith("20.") ? "--experimental-permission" : "--permission";
    const allowed = [root, folder].map((allowed) => `--allow-fs-read=${allowed}`).join(" ");
    return ["sh", "-c", `exec "$0" ${flag} --allow-addons ${allowed} --allow-fs-write=${folder} "$@"`];
  },
};

/** Neighbours of one process. */
const INSIDE = ["same process", "worker thread"];

/** The other side of the cell, where it is not a plain process of root. */
const HERE: Record<string, string[]> = {
  "hidepid=2": asAnotherUser, // to root nothing is hidden
};

const COLUMNS = [...INSIDE, ...Object.keys(THERE)];

/** What came of each cell that ran. */
const seen = new Map<string, Map<string, string>>();

const worldTest = testWith("root", "mounts", "pid namespaces", "another user");

for (const [name, fileSystem] of Object.entries(FILE_SYSTEMS)) {
  const title = `${name}: every neighbour is excluded, and takes over what is dead`;
  const lack = lackFor(fileSystem);
  if (lack) {
    skipAloud(title, lack);
    continue;
  }
  worldTest(title, { timeout: 120_000 }, async () => {
    const mounts = await Mounts.start();
    await fileSystem.mount(mounts);
    mounts.run("chmod", "755", mounts.scratch);
    mounts.run("chmod", "777", mounts.folder);
    const row = new Map<string, string>();
    row.set("same process", await sameProcess(new Cell(mounts, "chat")));
    row.set("worker thread", await workerThread(new Cell(mounts, "worker")));
    await Promise.all(
      Object.entries(THERE).map(async ([world, through]) => {
        const start = (command: string[]) => () => Agent.start({ through: mounts.through(...command) });
        const [here, there] = [start(HERE[world] ?? []), start(through(mounts))];
        const cell = new Cell(mounts, world.replaceAll("/", ""));
        const [into, out] = [await between(cell, here, there), await between(cell, there, here)];
        row.set(world, into === out ? into : `${into} / ${out}`);
      }),
    );
    if (fileSystem.kernel !== "fuse") {
      expect([...row.values()].join()).not.toMatch("age");
    }
    seen.set(name, row);
    if (!process.env.WRITE_WORLDS) {
      expect(rowOf(name), "docs/testing.md; WRITE_WORLDS=1 npx vitest run worlds writes it").toBe(committedRow(name));
    }
  });
}

// --- One cell -------------------------------------------------------------------------------------

/** A lock for one cell: the cells of a file system run side by side. */
class Cell {
  readonly file: string;

  constructor(
    readonly mounts: Mounts,
    readonly name: string,
  ) {
    this.file = path.join(mounts.folder, `${name}.jsonl`);
  }

  /** A lock file that is free is gone. The queue file may stay for a moment, until its last waiter has left. */
  expectNothingLeft(): void {
    const own = readdirSync(this.mounts.view).filter((name) => name.startsWith(`${this.name}.`));
    expect(own.filter((name) => name.endsWith(".lock") || name.endsWith(".new")), this.name).toEqual([]);
  }
}

/** A holder here, a contender there. Resolves to what became of the dead holder's lock. */
async function between(cell: Cell, startHolder: () => Promise<Agent>, startContender: () => Promise<Agent>) {
  const [holder, contender] = await Promise.all([startHolder(), startContender()]);
  expect(await take(holder, cell.file, 5_000)).toBe(true);
  await expectExclusion(contender, cell);
  const isKept = !(await take(contender, cell.file, SHORT_MS, 1));
  if (isKept) {
    await giveBack(holder);
  } else {
    await giveBack(contender);
  }
  // What is released is free.
  expect(await take(contender, cell.file, 5_000)).toBe(true);
  await giveBack(contender);
  // What is dead is taken over.
  expect(await take(holder, cell.file, 5_000)).toBe(true);
  await killAll(holder);
  const outcome = await takeOver(contender, cell);
  cell.expectNothingLeft();
  await killAll(contender);
  return isKept ? outcome : "age decides";
}

async function sameProcess(cell: Cell): Promise<string> {
  const agent = await cell.mounts.agent();
  expect(await take(agent, cell.file, 5_000)).toBe(true);
  await expectExclusion(agent, cell);
  expect(await take(agent, cell.file, SHORT_MS, 1)).toBe(false);
  await giveBack(agent);
  cell.expectNothingLeft();
  return "excluded";
}

/** The worker ends while it holds the lock. */
async function workerThread(cell: Cell): Promise<string> {
  const agent = await cell.mounts.agent();
  await agent.run(
    async ({ kept, require }, index, file) => {
      const { Worker } = require("node:worker_threads");
      const source = `const { parentPort } = require("node:worker_threads");
        require(${JSON.stringify(index)}).lock(${JSON.stringify(file)}, { staleMs: 1 }).then((held) => {
          globalThis.held = held;
          parentPort.postMessage("held");
          setInterval(() => {}, 1_000);
        });`;
      const worker = new Worker(source, { eval: true });
      await new Promise((resolve, reject) => worker.on("message", resolve).on("error", reject));
      kept.set("worker", worker);
    },
    path.join(root, "index.js"),
    cell.file,
  );
  await expectExclusion(agent, cell);
  expect(await take(agent, cell.file, SHORT_MS, 1)).toBe(false);
  await agent.run(({ kept }) => kept.get("worker").terminate());
  const outcome = await takeOver(agent, cell);
  cell.expectNothingLeft();
  return outcome;
}

async function expectExclusion(contender: Agent, { file, name }: Cell) {
  expect(await take(contender, file, SHORT_MS), name).toBe(false);
}

/** How the lock of a holder that is dead can be had. */
async function takeOver(contender: Agent, { file, mounts }: Cell): Promise<string> {
  if (await take(contender, file, AT_ONCE_MS)) {
    await giveBack(contender);
    return "at once";
  }
  if (await take(contender, file, AT_ONCE_MS, 1)) {
    await giveBack(contender);
    return "by age";
  }
  // Nobody but its owner and root can read the lock file.
  const owner = await mounts.agent();
  expect(await take(owner, file, AT_ONCE_MS)).toBe(true);
  await giveBack(owner);
  await owner.kill();
  return "waits";
}

/** Whether the lock was had within `timeoutMs`. */
function take(agent: Agent, file: string, timeoutMs: number, staleMs = 1_800_000): Promise<boolean> {
  return agent.run(
    async ({ lock, kept }, file, options) => {
      try {
        kept.set("held", await lock.lock(file, options));
        return true;
      } catch (error: any) {
        if (error.code !== "ERR_LOCK_TIMEOUT") {
          throw error;
        }
        return false;
      }
    },
    file,
    { timeoutMs, staleMs },
  );
}

function giveBack(agent: Agent): Promise<void> {
  return agent.run(({ kept }) => kept.get("held").release());
}

/** The agent itself, not only the command that started it. */
async function killAll(agent: Agent): Promise<void> {
  const children = readFileSync(`/proc/${agent.pid}/task/${agent.pid}/children`, "utf8").split(" ").filter(Boolean);
  for (const child of children) {
    process.kill(Number(child), "SIGKILL");
  }
  await agent.kill();
}

// --- The table ------------------------------------------------------------------------------------

const DOCUMENT = path.join(root, "docs/testing.md");
const [BEGIN, END] = ["<!-- worlds: begin -->\n", "<!-- worlds: end -->"];

function rowOf(name: string): string {
  const row = seen.get(name);
  const cells = COLUMNS.map((column) => row?.get(column) ?? `not run: ${lackFor(FILE_SYSTEMS[name]!)}`);
  return `| ${[name, ...cells].join(" | ")} |`;
}

function committedRow(name: string): string | undefined {
  return readFileSync(DOCUMENT, "utf8").split("\n").find((line) => line.startsWith(`| ${name} |`));
}

afterAll(() => {
  if (process.env.WRITE_WORLDS) {
    const text = readFileSync(DOCUMENT, "utf8");
    const head = [`| | ${COLUMNS.join(" | ")} |`, `|---|${COLUMNS.map(() => "---|").join("")}`];
    const table = [...head, ...Object.keys(FILE_SYSTEMS).map(rowOf)].join("\n");
    const [before, rest] = text.split(BEGIN) as [string, string];
    writeFileSync(DOCUMENT, `${before}${BEGIN}${table}\n${END}${rest.split(END)[1]}`);
  }
});

/**
 * What `status` and `clean` have in common: the lock files below some folders, judged, in the forms
 * in which they are shown.
 */

import { stat } from "node:fs/promises";
import path from "node:path";

import { messageOf, printable } from "./words.mjs";

/** Everything went well, and no lock file is dead. */
export const NOTHING_DEAD = 0;
/** Some are. */
export const SOMETHING_DEAD = 1;
/** It could not be done, or not all of it. */
export const ERROR = 2;

/**
 * Sweeps each of `folders`, all that is below them included. One that can't be read keeps nobody
 * from seeing the others: it is among the `failures`.
 */
export async function sweep(folders, { staleMs, removeStale }, lock) {
  const locks = new Map(); // by path: folders may be given twice, or one within the other
  const failures = [];
  for (const folder of folders) {
    try {
      await requireFolder(folder);
      const options = { sessionsDir: folder, recursive: true, removeStale, staleMs };
      for (const each of (await lock.cleanStaleLockFiles(options)).locks) {
        if (!locks.get(each.lockPath)?.removed) {
          locks.set(each.lockPath, each);
        }
      }
    } catch (error) {
      failures.push({ folder, error });
    }
  }
  return { locks: [...locks.values()], failures };
}

/** The sweep itself finds nothing in a folder that is missing; whoever names one wants to know. */
async function requireFolder(folder) {
  if (!(await stat(folder)).isDirectory()) {
    throw new Error(`not a folder; about one session \`session-write-lock why\` tells`);
  }
}

/** What went wrong, a line for each. */
export function failureLines(failures) {
  return failures.map(({ folder, error }) => `${printable(folder)}: ${messageOf(error)}`);
}

/** Short where it is below the current folder. */
export function sessionName({ lockPath }) {
  const sessionFile = lockPath.replace(/\.lock$/, "");
  const relative = path.relative(process.cwd(), sessionFile);
  return printable(relative.startsWith("..") ? sessionFile : relative);
}

/** An inspection as `--json` prints it: these fields, always. */
export function asJson(inspection) {
  const { lockPath, verdict, witnessed, pid, pidAlive, comm, createdAt, ageMs } = inspection;
  const { stale, staleReasons, removable, removed, holder, cause } = inspection;
  return {
    ...{ lockPath, verdict, witnessed, pid, pidAlive, comm, createdAt, ageMs },
    ...{ stale, staleReasons, removable, removed, holder },
    cause: cause === undefined ? null : { code: cause.code ?? null, message: cause.message },
  };
}

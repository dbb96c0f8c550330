/**
 * What `status` and `clean` have in common: the lock files in some folders and below, judged, in the forms in
 * which they are shown.
 */

import { stat } from "node:fs/promises";
import path from "node:path";

import { printable, reasonOf } from "./words.mjs";

/**
 * Sweeps each of `folders`, with all folders below. A folder that can't be read is in `failures`; the others are
 * swept all the same.
 */
export async function sweep(folders, { removeStale, staleMs, anyName, onProgress }, lock) {
  const locks = new Map(); // by path: a folder may be given twice, or inside another one
  const failures = [];
  for (const folder of folders) {
    try {
      await requireFolder(folder);
      const { locks: found, skipped = [] } = await lock.cleanStaleLockFiles({
        ...{ sessionsDir: folder, recursive: true, processes: true },
        ...{ removeStale, staleMs, anyName, onProgress },
      });
      failures.push(...skipped.map((error) => ({ folder: error.path, error })));
      for (const each of found) {
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

/** The sweep itself finds nothing in a folder that is missing; a person who names one has made a mistake. */
async function requireFolder(folder) {
  if (!(await stat(folder)).isDirectory()) {
    throw new Error("not a folder; `session-write-lock why` tells about one session");
  }
}

/** What went wrong, a line for each folder. */
export function failureLines(failures) {
  return failures.map(({ folder, error }) => {
    const reason = error.code === "ENOENT" ? "no such folder" : reasonOf(error);
    return `${printable(shortPath(folder))}: ${reason}`;
  });
}

/** For a table without rows. Folders that could not be read are in the complaints. */
export function noLocks(folders, { failures }, { all, verb }) {
  const read = folders.filter((folder) => failures.every((failure) => failure.folder !== folder));
  const where = read.map(printable).join(", ");
  const text = all ? `No lock files in ${where}` : `No *.jsonl.lock files in ${where}; --all ${verb} other names`;
  return read.length === 0 ? [] : [text];
}

/** Whether a name is a session's or its lock file's: the commands find these without `--all`. */
export function isSession(name) {
  return /\.jsonl(\.lock)?$/.test(name);
}

/** What removes this lock, once it is dead. */
export function cleanCommand({ lockPath }) {
  return `session-write-lock clean${isSession(lockPath) ? "" : " --all"}`;
}

/** Of a session: relative where it is below the current folder. */
export function sessionName({ lockPath }) {
  return printable(shortPath(lockPath.replace(/\.lock$/, "")));
}

function shortPath(file) {
  const relative = path.relative(process.cwd(), file);
  return path.isAbsolute(file) && !relative.startsWith("..") && relative !== "" ? relative : file;
}

/** An inspection as `--json` prints it: these fields, always. */
export function asJson(inspection) {
  const { lockPath, verdict, ground, witnessed, sharedWith, pid, pidAlive, comm, createdAt, ageMs } = inspection;
  const { stale, staleReasons, removable, removed, holder, cause } = inspection;
  const { holders, waiters, writer } = inspection;
  return {
    ...{ lockPath, verdict, ground, witnessed, sharedWith, pid, pidAlive, comm, createdAt, ageMs },
    ...{ stale, staleReasons, removable, removed, holder, holders, waiters, writer },
    cause: cause === undefined ? null : { code: cause.code ?? null, message: cause.message },
  };
}

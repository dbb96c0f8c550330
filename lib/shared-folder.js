"use strict";

/** What it means that others use a folder, and what to do about it: for a warning, and for a person at a terminal. */

const SCALING = "https://github.com/openclaw/session-write-lock/blob/main/docs/scaling.md";

const MEANINGS = {
  "other-machine": {
    what: "Another machine holds a lock here, and this file system does not tell when a machine crashes.",
    so:
      "Locks exclude. But a lock that a crash leaves behind blocks until it is older than staleMs; on NFS 3 until that " +
      "machine is up again.",
    advice: "Use a local disk, NFS 4, or a PostgreSQL server",
  },
  "other-mount": {
    what:
      "A process of this machine holds a lock here through another mount of the folder, and the kernel does not show " +
      "each mount the locks of the other.",
    so: "So a lock that is held from another container for longer than staleMs can be taken from a live holder.",
    advice: "Use the same mount everywhere",
  },
};

/** `sharedWith`: of an inspection. */
function aboutSharing(sharedWith) {
  const { what, so, advice } = MEANINGS[sharedWith];
  return `${what} ${so} ${advice}: ${SCALING}`;
}

/** Told once for each folder. */
function warnShared({ folder, sharedWith }) {
  process.emitWarning(`${folder}: ${aboutSharing(sharedWith)}`, { type: "LockWarning", code: "LOCK_SHARED_FOLDER" });
}

module.exports = { aboutSharing, warnShared };

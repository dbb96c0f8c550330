/**
 * Writes `__test__/fixtures/errnos.json`: for each system call of the protocol the errors that its manual page gives.
 * `node scripts/man-errnos.mjs`, on a machine with the Linux man-pages (Debian: manpages-dev).
 */

import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { gunzipSync } from "node:zlib";

/** By call: its page in section 2, and the page that this one leaves some of its errors to. */
const PAGES = {
  open: ["open"],
  openat: ["open"],
  newfstatat: ["stat"],
  fstat: ["stat"],
  statx: ["statx"],
  fstatfs: ["statfs"],
  readlink: ["readlink"],
  readlinkat: ["readlink"],
  flock: ["flock"],
  fcntl: ["fcntl"],
  pread64: ["pread", "read"],
  pwrite64: ["pread", "write"],
  utimensat: ["utimensat"],
  link: ["link"],
  linkat: ["link"],
  rename: ["rename"],
  renameat2: ["rename"],
  unlink: ["unlink"],
  unlinkat: ["unlink"],
  close: ["close"],
  getdents64: ["getdents"],
  getrandom: ["getrandom"],
  kill: ["kill"],
  tgkill: ["tkill"],
  geteuid: [],
  // The first one of a process is tested (faults.test.ts). No later one can fail: ECANCELED needs a flag, and the others
  // a wrong descriptor or argument (fs/timerfd.c, do_timerfd_settime).
  timerfd_settime: [],
  inotify_init1: ["inotify_init"],
  inotify_add_watch: ["inotify_add_watch"],
  inotify_rm_watch: ["inotify_rm_watch"],
  pidfd_open: ["pidfd_open"],
  eventfd2: ["eventfd"],
};

function errorsOf(page) {
  const text = gunzipSync(readFileSync(`/usr/share/man/man2/${page}.2.gz`)).toString();
  const target = /^\.so man2\/(\w+)\.2/m.exec(text);
  if (target) {
    return errorsOf(target[1]);
  }
  const section = /^\.SH ERRORS\n(.*?)^\.SH /ms.exec(text)[1];
  return [...section.matchAll(/^\.BR?\s+"?(E[A-Z0-9]{2,})\b/gm)].map(([, name]) => (name === "EWOULDBLOCK" ? "EAGAIN" : name));
}

const errors = Object.fromEntries(
  Object.entries(PAGES).map(([call, pages]) => [call, [...new Set(pages.flatMap(errorsOf))].sort()]),
);
const file = fileURLToPath(new URL("../__test__/fixtures/errnos.json", import.meta.url));
writeFileSync(file, `${JSON.stringify(errors, null, 2)}\n`);
for (const [call, names] of Object.entries(errors)) {
  console.log(`${call}: ${names.join(" ")}`);
}

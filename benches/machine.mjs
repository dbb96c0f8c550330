/** What the numbers were measured on, without what would tell one machine from another. */

import { execFileSync } from "node:child_process";
import { statfsSync } from "node:fs";
import os from "node:os";

const FILE_SYSTEMS = new Map([
  [0xef53, "ext4"],
  [0x58465342, "xfs"],
  [0x9123683e, "btrfs"],
  [0x01021994, "tmpfs"],
  [0x794c7630, "overlayfs"],
  [0x2fc12fc1, "zfs"],
]);

export function describeMachine(folder) {
  const cpus = os.cpus();
  const magic = statfsSync(folder).type;
  return {
    processor: `${cpus.length} × ${cpus[0].model.trim()}`,
    memory: `${Math.round(os.totalmem() / 2 ** 30)} GiB`,
    // Without the builder's suffix.
    system: `${os.type()} ${os.release().replace(/-.*$/, "")}, ${os.arch()}`,
    "file system": FILE_SYSTEMS.get(magic) ?? `0x${magic.toString(16)}`,
    node: process.version,
    rust: execFileSync("rustc", ["--version"], { encoding: "utf8" }).split(" ")[1],
  };
}

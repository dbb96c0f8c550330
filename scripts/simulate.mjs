/**
 * `npm run simulate`: the simulation at length, some twenty minutes and up to 8 GB. Where this runs as
 * root, the simulated kernel is also compared with more file systems, on loop devices.
 *
 * `SIMULATION_STATES`, `SIMULATION_WALKS`: how far to go.
 */

import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { root } from "./setup.mjs";

const FILE_SYSTEMS = ["ext4", "xfs", "btrfs"];

const scratch = mkdtempSync(join(tmpdir(), "simulate-"));
const mounted = [];

const works = (command, ...args) => spawnSync(command, args, { stdio: "ignore" }).status === 0;

function mount(kind) {
  const [image, folder] = [join(scratch, `${kind}.img`), join(scratch, kind)];
  mkdirSync(folder);
  const isThere =
    works("truncate", "-s", "400M", image) &&
    works(`mkfs.${kind}`, "-q", image) &&
    works("mount", "-o", "loop", image, folder);
  note(isThere, kind, folder);
}

function mountOverlay() {
  const [lower, upper, work, folder] = ["lower", "upper", "work", "overlay"].map((name) => {
    const path = join(scratch, name);
    mkdirSync(path);
    return path;
  });
  const layers = `lowerdir=${lower},upperdir=${upper},workdir=${work}`;
  note(works("mount", "-t", "overlay", "overlay", "-o", layers, folder), "overlayfs", folder);
}

function note(isThere, kind, folder) {
  if (isThere) mounted.push(folder);
  else console.log(`skipped: no ${kind} can be mounted here (that takes root and mkfs.${kind})`);
}

let status = 1;
try {
  FILE_SYSTEMS.forEach(mount);
  mountOverlay();
  const args = ["test", "--profile", "simulation", "--test", "simulation", "--", "--skip", "::tests::"];
  const run = spawnSync("cargo", [...args, "--nocapture", "--test-threads=2"], {
    cwd: root,
    stdio: "inherit",
    env: {
      SIMULATION_STATES: "10000000",
      SIMULATION_WALKS: "1000000",
      ...process.env,
      SIMULATION_FOLDERS: mounted.join(":"),
    },
  });
  status = run.status ?? 1;
} finally {
  for (const folder of mounted) spawnSync("umount", [folder]);
  rmSync(scratch, { recursive: true, force: true });
}
process.exitCode = status;

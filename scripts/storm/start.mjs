/** Starts a process of a storm. */

import { fork } from "node:child_process";
import { fileURLToPath } from "node:url";

const ACTOR = fileURLToPath(new URL("actor.mjs", import.meta.url));

export function startActor(plan, env = process.env) {
  const child = fork(ACTOR, [JSON.stringify(plan)], { env });
  child.ended = new Promise((resolve) => child.once("exit", resolve));
  return child;
}

/** What stands for Node where the addon for Windows is linked. */

import { writeFileSync } from "node:fs";

import { cache, makeFolder } from "./targets.mjs";

/**
 * napi's build for Windows insists on a library of Node to link with. Nothing is taken from it: the addon looks Node's
 * functions up when it is loaded. So it gets an empty one.
 */
export function provideLibnode() {
  const folder = makeFolder(`${cache}/libnode`);
  writeFileSync(`${folder}/libnode.dll`, "");
  writeFileSync(`${folder}/libnode.a`, "!<arch>\n");
  return folder;
}

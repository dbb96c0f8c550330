/** Everything that is measured, in the order of the page. */

import { contenders, waiters } from "./crowd.mjs";
import { storm, takeover } from "./deaths.mjs";
import { handOffInside, handOffLong, handOffShort } from "./handoff.mjs";
import { handOffTimeline } from "./timeline.mjs";
import { longWait } from "./idle.mjs";
import { load } from "./load.mjs";
import { mainThread } from "./mainthread.mjs";
import { postgres } from "./postgres.mjs";
import { synchronous, uncontended } from "./uncontended.mjs";
import { wanted } from "./wanted.mjs";

export const scenarios = [
  uncontended,
  synchronous,
  handOffShort,
  handOffLong,
  handOffTimeline,
  handOffInside,
  wanted,
  takeover,
  storm,
  contenders,
  longWait,
  waiters,
  load,
  mainThread,
  postgres,
];

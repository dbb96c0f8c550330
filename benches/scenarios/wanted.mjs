/** How soon a holder hears that somebody waits. */

import { withActors } from "../crew.mjs";
import { summary } from "../numbers.mjs";

async function tell(context) {
  const sessionFile = context.sessionFile("wanted");
  const samples = await withActors("addon", 2, async ([holder, waiter]) => {
    const samples = [];
    for (let round = 0; round < (context.quick ? 100 : 2_000); round += 1) {
      await holder.run("holdUntilWanted", { sessionFile });
      const beganAt = await waiter.run("waitOnce", { sessionFile });
      samples.push((await holder.run("wantedAt")) - beganAt);
    }
    return samples;
  });
  return { addon: summary(samples) };
}

export const wanted = {
  id: "wanted",
  title: "`lock.wanted`: from a waiter's call to the holder's event",
  unit: "ms",
  method:
    "One process holds the lock and listens to `lock.wanted`; another one calls `lock`. Measured from before that " +
    "call to the event in the holder, which then lets go.",
  run: tell,
};

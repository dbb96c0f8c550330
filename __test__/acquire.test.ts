import { existsSync } from "node:fs";
import path from "node:path";
import { expect, test } from "vitest";

import { acquireSessionWriteLock } from "../index.js";
import { Agent, temporaryFolder } from "./support.js";

test("a lock that another process holds is waited for", async () => {
  const sessionFile = path.join(temporaryFolder(), "chat.jsonl");
  const agent = await Agent.start();
  const lockPath = await agent.acquire({ sessionFile });
  let acquired = false;
  const waiting = acquireSessionWriteLock({ sessionFile }).finally(() => {
    acquired = true;
  });
  await expect(acquireSessionWriteLock({ sessionFile, timeoutMs: 20 })).rejects.toThrow(
    `session file locked (timeout 20ms): pid=${agent.pid} alive=true`,
  );
  expect(acquired).toBe(false);
  await agent.release(sessionFile);
  await (await waiting).release();
  expect(existsSync(lockPath)).toBe(false);
});

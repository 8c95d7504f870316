import { expect, test } from "bun:test";
import { runOnce } from "./harness.ts";

test("selftest breaks everything on this machine, loses nothing, doubles nothing, and ends within a minute", async () => {
  const startedAt = performance.now();
  const { code, out, err } = await runOnce(["selftest"]);
  expect(out).not.toContain("FAILED");
  expect(out.match(/ ok$/gmu)).toHaveLength(10);
  const [messages, kills, lost, doubled] = /^(\d+) +(\d+) +(\d+) +(\d+) /mu.exec(out)?.slice(1).map(Number) ?? [];
  expect({ messages, kills, lost, doubled }).toEqual({ messages: 30, kills: 10, lost: 0, doubled: 0 });
  expect(performance.now() - startedAt).toBeLessThan(60_000);
  expect({ code, err }).toEqual({ code: 0, err: "" });
}, 90_000);

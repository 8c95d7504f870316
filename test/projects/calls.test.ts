/** The journal: each call moves along one arrow once, and a yes holds for what was shown, once, and in time. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import fc from "fast-check";
import { unknownOutcome } from "../../src/store/calls.ts";
import { prune } from "../../src/store/retention.ts";
import { startRig, type Rig } from "./rig.ts";

let rig: Rig;
beforeEach(async () => void (rig = await startRig()));
afterEach(() => rig.stop());

const call = { id: "c", sessionId: "s", turn: "t", project: "garden", tool: "local_run", input: { command: "ls" } };

test("an event that is read twice is one call", () => {
  expect([rig.calls.see(call, 1), rig.calls.see({ ...call, input: {} }, 2)]).toEqual([true, false]);
  expect(rig.rowOf("c")).toMatchObject({
    input: { command: "ls" },
    state: "seen",
    seenAt: 1,
    content: null,
    isError: false,
  });
  expect(rig.calls.open("s").map(({ id }) => id)).toEqual(["c"]);
});

test("calls of one moment stay in Claude's order", () => {
  for (const id of ["sevt_9", "sevt_10", "sevt_8"]) rig.calls.see({ ...call, id }, 1);
  expect(rig.calls.open("s").map(({ id }) => id)).toEqual(["sevt_9", "sevt_10", "sevt_8"]);
});

test("a yes counts once, also after a restart, and starts one run", () => {
  rig.calls.see(call, 1);
  rig.calls.ask("c", "b", 5);
  expect([rig.calls.allow("c", "owner", 10), rig.calls.allow("c", "owner", 10)]).toEqual([true, false]);
  expect([rig.calls.start("c", "allowed", 11), rig.calls.start("c", "allowed", 11)]).toEqual([true, false]);
  expect(rig.calls.deny("c", "no", "owner", 12)).toBe(false);
  expect(rig.calls.finish("c", { content: "out", isError: false }, 12)).toBe(true);
  expect(rig.calls.settleInterrupted(13)).toEqual([]);
  expect([rig.calls.markPosted("c", 13), rig.calls.markPosted("c", 13)]).toEqual([true, false]);
  expect(rig.calls.open("s")).toEqual([]);
  expect(rig.rowOf("c")).toMatchObject({ state: "posted", content: "out", approver: "owner" });
});

test("a no, and a question without an answer, are settled in words and posted", () => {
  for (const id of ["c", "d"]) {
    rig.calls.see({ ...call, id }, 1);
    rig.calls.ask(id, "b", 5);
  }
  expect(rig.calls.deny("c", "The owner said no: not now", "owner", 6)).toBe(true);
  expect(rig.calls.expire("d", "No answer came", 6)).toBe(true);
  for (const id of ["c", "d"]) {
    expect(rig.calls.allow(id, "owner", 7)).toBe(false);
    expect(rig.rowOf(id).isError).toBe(true);
    expect(rig.calls.markPosted(id, 8)).toBe(true);
  }
});

test("what was started and not done is settled as unknown, once", () => {
  rig.calls.see(call, 1);
  rig.calls.start("c", "seen", 2);
  expect(rig.calls.settleInterrupted(3)).toHaveLength(1);
  expect(rig.calls.settleInterrupted(4)).toHaveLength(0);
  expect(rig.rowOf("c")).toMatchObject({ state: "done", content: unknownOutcome, isError: true });
});

test("posted calls go with their age; calls go with their session", () => {
  rig.calls.see(call, 1);
  rig.calls.finish("c", { content: "x", isError: false }, 2);
  rig.calls.markPosted("c", 3);
  rig.calls.see({ ...call, id: "d" }, 1);
  rig.db.exec("UPDATE sessions SET used_at = 1000");
  prune(rig.db, 100);
  expect(rig.calls.list("s", 10).map(({ id }) => id)).toEqual(["d"]);
  rig.db.exec("DELETE FROM sessions WHERE id = 's'");
  expect(rig.calls.get("d")).toBeNull();
});

const moves = {
  ask: () => rig.calls.ask("c", "b", 1),
  allow: () => rig.calls.allow("c", "owner", 1),
  deny: () => rig.calls.deny("c", "no", "owner", 1),
  expire: () => rig.calls.expire("c", "late", 1),
  startSeen: () => rig.calls.start("c", "seen", 1),
  startAllowed: () => rig.calls.start("c", "allowed", 1),
  finish: () => rig.calls.finish("c", { content: "out", isError: false }, 1),
  post: () => rig.calls.markPosted("c", 1),
  settle: () => rig.calls.settleInterrupted(1).length > 0,
};

test("in whatever order the moves come: a run starts at most once, and nothing happens after it is settled", () => {
  fc.assert(
    fc.property(
      fc.array(fc.constantFrom(...(Object.keys(moves) as (keyof typeof moves)[])), { maxLength: 30 }),
      (names) => {
        rig.db.exec("DELETE FROM calls");
        rig.calls.see(call, 1);
        const done = names.filter((name) => moves[name]());
        expect(done.filter((name) => name.startsWith("start")).length).toBeLessThanOrEqual(1);
        expect(done.filter((name) => name === "allow").length).toBeLessThanOrEqual(1);
        const settled = done.findIndex((name) => ["deny", "expire", "finish", "settle"].includes(name));
        if (settled >= 0) expect(done.slice(settled + 1).filter((name) => name !== "post")).toEqual([]);
      },
    ),
    { numRuns: 300 },
  );
});

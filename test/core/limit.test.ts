/** What the questions of a person may cost in a day. */
import { expect, test } from "bun:test";
import type { Spend } from "../../src/core/spend.ts";
import { createChatRig } from "../doubles/chats.ts";
import { idle, log, logged, processed, prompt, textsOf, viewOf } from "./chat-cases.ts";

test.each([
  [79, false, []],
  [80, false, ["Your questions today cost $0.80 of the $1.00 allowed, until midnight (UTC)."]],
  [80, true, []],
  [140, false, ["Your questions today cost $1.40 of the $1.00 allowed, until midnight (UTC)."]],
])("when a turn ends with %d of 100 cents spent, told already: %p", (cents, isTold, texts) => {
  const spend: Spend = { limitCents: 100, cents, until: "midnight (UTC)", subject: "day person", isTold };
  const stop = idle({ kind: "end_turn" });
  const view = viewOf([prompt(1, "posted")], { turn: log(processed, stop), spend: () => spend });
  expect(textsOf(view, logged(stop))).toEqual(texts);
});

test("what waits behind the question at work is refused when its turn comes, and the next day's is asked", async () => {
  const rig = await createChatRig({ spendLimitCents: 10 });
  const [one, two] = [rig.say("one"), rig.say("two")];
  const session = rig.store.sessions.active("self");
  const post = rig.store.posts.ofPrompt(one ?? 0);
  if (session === null || post === null) throw new Error("nothing is asked");
  rig.store.posts.markPosting(post.id, rig.now, null);
  const at = ++rig.now;
  const usage = { inputTokens: 9, outputTokens: 1, costCents: 10, isTotal: true };
  rig.chats.log(
    session.id,
    [
      { id: "p", at, type: "prompt", text: "one" },
      { id: "u", at, type: "usage", ...usage },
      { id: "i", at, type: "idle", stop: { kind: "end_turn" } },
    ],
    [{ id: post.id, eventId: "p" }],
  );
  expect(rig.store.inbox.get(two ?? 0)?.state).toBe("done");
  expect(rig.store.posts.open(session.id)).toEqual([]);
  const refusal = rig.store.outbox.of("failed", String(two))[0]?.body;
  expect(refusal?.kind === "text" && refusal.text).toContain("$0.10 of the $0.10 allowed, until midnight (UTC)");
  // The same sum again costs nothing.
  rig.chats.log(session.id, [{ id: "u2", at, type: "usage", ...usage }]);
  expect(rig.store.usage.ofSession(session.id)).toMatchObject({ inputTokens: 9, costCents: 10 });
  rig.now += 86_400_000;
  rig.say("three");
  expect(rig.store.posts.open(session.id)).toMatchObject([{ kind: "prompt", state: "queued" }]);
  rig.close();
});

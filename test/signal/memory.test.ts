import { describe, expect, test } from "bun:test";
import type { Outbound } from "../../src/core/model.ts";
import { createMemorySignal } from "../doubles/memory.ts";
import { codeOf } from "../contract/transport.ts";
import { createVirtualClock } from "../doubles/clock.ts";
import { alice, groupId } from "../doubles/wire.ts";

const never = new AbortController().signal;
const text = (said: string, timestamp: number): Outbound => ({
  chat: { kind: "self" },
  timestamp,
  body: { kind: "text", text: said, styles: [], quote: null, files: [] },
});

async function setup(ownTimestamps = true) {
  const clock = createVirtualClock();
  const signal = createMemorySignal({ clock, ownTimestamps });
  await signal.transport.connect(never);
  return { clock, ...signal };
}

describe("the in-process Signal", () => {
  test("a message sent twice with its own timestamp is seen once", async () => {
    const { transport, screen, faults } = await setup();
    faults.loseAnswers();
    expect(await codeOf(transport.send(text("hi", 5)))).toBe("send_uncertain");
    expect(await transport.send(text("hi", 5))).toEqual({ timestamp: 5, failed: [] });
    expect(screen()).toHaveLength(1);
  });

  test("without timestamps of its own it is seen twice", async () => {
    const { transport, screen, faults } = await setup(false);
    faults.loseAnswers();
    await codeOf(transport.send(text("hi", 5)));
    await transport.send(text("hi", 5));
    expect(screen().map(({ text: said }) => said)).toEqual(["hi", "hi"]);
  });

  test("an edit changes what is on the screen, a reaction stands beside it", async () => {
    const { transport, screen, reactions } = await setup();
    await transport.send(text("first", 5));
    const chat = { kind: "self" } as const;
    await transport.send({ chat, timestamp: 6, body: { kind: "edit", targetSentAt: 5, text: "second", styles: [] } });
    const author = { aci: null, number: null };
    const reaction = { kind: "reaction", emoji: "👍", targetAuthor: author, targetSentAt: 5, isRemove: false } as const;
    await transport.send({ chat, timestamp: 7, body: reaction });
    expect(screen()).toMatchObject([{ text: "second", editCount: 1, versions: [5, 6] }]);
    expect(reactions()).toEqual([{ chat, targetSentAt: 5, emoji: "👍" }]);
  });

  test("an edit that names an old version, or what was sent more than a day ago, is refused", async () => {
    const { transport, screen } = await setup();
    await transport.send(text("first", 5));
    const edit = (timestamp: number, targetSentAt: number) =>
      transport.send({
        chat: { kind: "self" },
        timestamp,
        body: { kind: "edit", targetSentAt, text: "later", styles: [] },
      });
    await edit(6, 5);
    expect(await codeOf(edit(7, 5))).toBe("send_rejected");
    expect(await codeOf(edit(25 * 3_600_000, 6))).toBe("send_rejected");
    expect(await codeOf(edit(8, 4))).toBe("send_rejected");
    expect(screen()).toMatchObject([{ text: "later", editCount: 1 }]);
  });

  test("an acknowledgement that is lost brings the batch again", async () => {
    const { transport, owner, faults, queued } = await setup();
    owner.write("once more");
    faults.loseAcks();
    const first = await transport.receive(1000, never);
    await transport.ack(first, true);
    const again = await transport.receive(1000, never);
    expect(again.envelopes).toEqual(first.envelopes);
    await transport.ack(again, true);
    expect(queued()).toEqual([]);
  });

  test("while it hangs nothing comes back, until it is released", async () => {
    const { clock, transport, owner, faults, screen } = await setup();
    faults.hang();
    owner.write("are you there?");
    let isBack = false;
    const receiving = transport.receive(1000, never).finally(() => {
      isBack = true;
    });
    const sending = transport.send(text("hi", 5));
    await clock.advance(600_000);
    expect(isBack).toBe(false);
    expect(screen()).toEqual([]);
    faults.release();
    expect((await receiving).envelopes).toHaveLength(1);
    await sending;
    expect(screen()).toHaveLength(1);
  });

  test("disconnecting gets out of a hang, and an aborted connect does too", async () => {
    const { transport, faults } = await setup();
    faults.hang();
    const receiving = transport.receive(1000, never);
    const sending = codeOf(transport.send(text("hi", 5)));
    await transport.disconnect();
    expect((await receiving).envelopes).toEqual([]);
    expect(await sending).toBe("signal_unreachable");
    const stop = new AbortController();
    const connecting = codeOf(transport.connect(stop.signal));
    stop.abort();
    expect(await connecting).toBe("signal_unreachable");
  });

  test("refusals are as many as were asked for, with their waiting time", async () => {
    const { transport, faults, screen } = await setup();
    faults.refuseSends("signal_rate_limited", 2, 37_000);
    for (let count = 0; count < 2; count++)
      expect(await transport.send(text("hi", 5)).catch((error: unknown) => error)).toMatchObject({
        code: "signal_rate_limited",
        retryAfterMs: 37_000,
      });
    await transport.send(text("hi", 5));
    expect(screen()).toHaveLength(1);
  });

  test("unlinked, it takes a person; relinked, it goes on", async () => {
    const { transport, faults } = await setup();
    faults.unlink();
    expect(await codeOf(transport.receive(1000, never))).toBe("unlinked");
    expect(await codeOf(transport.send(text("hi", 5)))).toBe("unlinked");
    faults.relink();
    await transport.connect(never);
    expect(await transport.send(text("hi", 5))).toMatchObject({ timestamp: 5 });
  });

  test("people write with mentions, quotes, edits, reactions and deletions, each with a time of its own", async () => {
    const { transport, account, person } = await setup();
    const her = person(alice, "Alice");
    const asked = her.write("look", { group: groupId, isMention: true });
    her.edit(asked.sentAt, "look here", { group: groupId });
    her.react({ author: account, sentAt: 5 }, "✅");
    her.delete(asked.sentAt, { group: groupId });
    const { envelopes } = await transport.receive(1000, never);
    expect(new Set(envelopes.map(({ sentAt }) => sentAt)).size).toBe(4);
    expect(envelopes).toMatchObject([
      { content: { text: "\u{FFFC} look", mentions: [{ start: 0, length: 1, who: { aci: account.aci } }] } },
      { content: { kind: "edit", targetSentAt: asked.sentAt } },
      { chat: { kind: "direct" }, content: { kind: "reaction", emoji: "✅" } },
      { content: { kind: "delete" } },
    ]);
  });

  test("next waits for what is still to come, in order", async () => {
    const { transport, next } = await setup();
    const [first, second] = [next(), next()];
    await transport.send(text("one", 5));
    await transport.send(text("two", 6));
    expect((await first).text).toBe("one");
    expect((await second).text).toBe("two");
  });

  test("typing is shown until it stops or the message is there", async () => {
    const { transport, typing } = await setup();
    const chat = { kind: "self" } as const;
    await transport.typing(chat, true);
    expect([...typing()]).toEqual(["self"]);
    await transport.send(text("done", 5));
    expect([...typing()]).toEqual([]);
  });
});

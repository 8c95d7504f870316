/**
 * What every transport must do, the fake included. A harness brings a transport, people who write to it, a look at their
 * screens, and the faults of the line; time is the harness's clock.
 */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import type { ErrorCode } from "../../src/core/errors.ts";
import { BridgeError } from "../../src/core/errors.ts";
import type { Chat, Envelope, Millis, Outbound, OutboundBody, StyleRange } from "../../src/core/model.ts";
import type { Batch, Transport } from "../../src/signal/transport.ts";
import type { VirtualClock } from "../doubles/clock.ts";
import { alice, groupId, me } from "../doubles/wire.ts";

export type SeenMessage = {
  readonly chat: Chat;
  readonly timestamp: Millis;
  readonly text: string;
  readonly styles: readonly StyleRange[];
  readonly quoteSentAt: Millis | null;
  readonly editOf: Millis | null;
  readonly reaction: { readonly emoji: string; readonly targetSentAt: Millis } | null;
};

export type TransportHarness = {
  /** For the account `me`, not connected. */
  readonly transport: Transport;
  readonly clock: VirtualClock;
  /** The owner in Note to Self; `alice` to us; `alice` in the group. Each returns the message's timestamp. */
  phoneWrites(text: string): Millis;
  personWrites(text: string): Millis;
  groupWrites(text: string): Millis;
  /** `alice` sends a file of these bytes. */
  personSendsFile(bytes: Uint8Array): void;
  /** What arrived on the screens since the beginning; an edit and a reaction are entries of their own. */
  seen(): readonly SeenMessage[];
  readMarks(): readonly Millis[];
  /** Resolves when `receive` has nothing left to bring and waits. */
  parked(): Promise<void>;
  cut(): Promise<void>;
  mend(): Promise<void>;
  unlink(): void;
  /** The next send arrives, but its answer does not. */
  loseAnswer(): void;
  /** The next send is refused. */
  refuse(code: "signal_rate_limited" | "captcha" | "untrusted_identity" | "unregistered"): void;
  /** Throws when the other side was used in a way it only seemed to understand. */
  close(): Promise<void>;
};

const peer = { aci: alice.aci, number: alice.number };
const direct: Chat = { kind: "direct", peer };
const self: Chat = { kind: "self" };
const group: Chat = { kind: "group", id: groupId };
const never = new AbortController().signal;

const say = (text: string, styles: readonly StyleRange[] = []): OutboundBody => ({
  kind: "text",
  text,
  styles,
  quote: null,
  files: [],
});

/** The BridgeError that a promise ends with; anything else fails the test. */
export async function faultOf(promise: Promise<unknown>): Promise<BridgeError> {
  const error = await promise.then(
    () => new Error("expected a BridgeError"),
    (thrown: unknown) => thrown,
  );
  if (error instanceof BridgeError) return error;
  throw error;
}

export const codeOf = async (promise: Promise<unknown>): Promise<ErrorCode> => (await faultOf(promise)).code;

const texts = ({ envelopes }: Batch): string[] =>
  envelopes.flatMap(({ content }) => (content.kind === "text" ? [content.text] : []));

export function transportContract(name: string, setup: () => Promise<TransportHarness>): void {
  describe(`transport contract: ${name}`, () => {
    let h: TransportHarness;
    let stamp = 1_786_953_700_000;
    const out = (chat: Chat, body: OutboundBody): Outbound => ({ chat, timestamp: ++stamp, body });
    /** Time passes while it waits: where a batch ends by silence, that has to happen. */
    const drive = async <T>(promise: Promise<T>): Promise<T> => {
      const state = { isDone: false };
      const done = promise.finally(() => {
        state.isDone = true;
      });
      const silence = async (): Promise<T> => {
        while (!state.isDone) {
          await h.parked();
          if (!state.isDone) await h.clock.advance(1000);
        }
        return promise;
      };
      return Promise.race([done, silence()]);
    };
    const receive = (timeoutMs = 1000): Promise<Batch> => drive(h.transport.receive(timeoutMs, never));
    const take = async (): Promise<Batch> => {
      const batch = await receive();
      await h.transport.ack(batch, true);
      return batch;
    };
    const firstOf = ({ envelopes }: Batch): Envelope => {
      const [envelope] = envelopes;
      if (!envelope) throw new Error("expected an envelope");
      return envelope;
    };

    beforeEach(async () => {
      h = await setup();
      await h.transport.connect(never);
    });
    afterEach(() => h.close());

    describe("receiving", () => {
      test("connect tells the account", async () => {
        expect(await h.transport.connect(never)).toMatchObject({ number: me.number });
      });

      test("a note to self is our own message in the chat with ourselves", async () => {
        const sentAt = h.phoneWrites("what is on my calendar?");
        const envelope = firstOf(await take());
        expect(envelope).toMatchObject({ chat: self, isOwn: true, sentAt, sourceDevice: 1 });
        expect(envelope.content).toMatchObject({ kind: "text", text: "what is on my calendar?" });
      });

      test("another person's message comes from the chat with that person", async () => {
        const sentAt = h.personWrites("hi");
        const envelope = firstOf(await take());
        expect(envelope).toMatchObject({ chat: direct, isOwn: false, sentAt, source: peer });
      });

      test("a message in a group belongs to the group, not to the chat with its author", async () => {
        h.groupWrites("hello all");
        expect(firstOf(await take())).toMatchObject({ chat: group, source: { aci: alice.aci } });
      });

      test("a waiting receive ends when something arrives", async () => {
        const receiving = h.transport.receive(20_000, never);
        await h.parked();
        h.phoneWrites("now");
        expect(texts(await drive(receiving))).toEqual(["now"]);
      });

      test("an empty receive ends after its time-out and is proof of life", async () => {
        const receiving = h.transport.receive(1000, never);
        await h.parked();
        await h.clock.advance(1000);
        expect(await receiving).toMatchObject({ envelopes: [], isProof: true });
      });

      test("a backlog comes once and in order", async () => {
        const expected = Array.from({ length: 30 }, (_, index) => `message ${index}`);
        for (const text of expected) h.phoneWrites(text);
        const received: string[] = [];
        while (received.length < expected.length) {
          const batch = await take();
          received.push(...texts(batch));
        }
        expect(received).toEqual(expected);
      });

      test("a batch whose commit failed comes again, and never after it was acknowledged", async () => {
        h.phoneWrites("once");
        const failed = await receive();
        await h.transport.ack(failed, false);
        expect(texts(await take())).toEqual(texts(failed));
        h.phoneWrites("next");
        expect(texts(await take())).toEqual(["next"]);
      });

      test("a batch that was never acknowledged comes again after a reconnect", async () => {
        h.phoneWrites("precious");
        await receive();
        await h.transport.connect(never);
        expect(texts(await take())).toEqual(["precious"]);
      });
    });

    describe("sending", () => {
      const chats: readonly (readonly [string, Chat])[] = [
        ["ourselves", self],
        ["a person", direct],
        ["a group", group],
      ];
      test.each(chats)("a message to %s arrives with the timestamp that send tells", async (_, chat) => {
        const { timestamp, failed } = await h.transport.send(out(chat, say("hello 👋")));
        expect(failed).toEqual([]);
        const [seen] = h.seen();
        expect(seen).toMatchObject({ timestamp, text: "hello 👋", styles: [] });
        expect(seen?.chat.kind).toBe(chat.kind);
      });

      test("styles arrive on the letters they were put on", async () => {
        const text = "✅ 2 * 3 is `six`, not ~5 | 7~";
        const styles: StyleRange[] = [
          { start: 2, length: 5, style: "BOLD" },
          { start: 12, length: 3, style: "MONOSPACE" },
        ];
        await h.transport.send(out(direct, say(text, styles)));
        expect(h.seen()).toMatchObject([{ text, styles }]);
      });

      test("an edit and a reaction name the message they belong to", async () => {
        const { timestamp } = await h.transport.send(out(direct, say("first")));
        await h.transport.send(out(direct, { kind: "edit", targetSentAt: timestamp, text: "second", styles: [] }));
        const author = { aci: alice.aci, number: alice.number };
        const target = { targetAuthor: author, targetSentAt: 1_786_953_600_000, isRemove: false };
        await h.transport.send(out(direct, { kind: "reaction", emoji: "👀", ...target }));
        const [, edit, reaction] = h.seen();
        expect(edit).toMatchObject({ text: "second", editOf: timestamp });
        expect(reaction?.reaction).toMatchObject({ emoji: "👀", targetSentAt: 1_786_953_600_000 });
      });

      test("an edit of an edit names the version before it, and is an edit for the phones", async () => {
        const first = await h.transport.send(out(direct, say("first")));
        const edit = (targetSentAt: Millis, text: string) =>
          h.transport.send(out(direct, { kind: "edit", targetSentAt, text, styles: [] }));
        const second = await edit(first.timestamp, "second");
        await edit(second.timestamp, "third");
        expect(h.seen().map(({ editOf }) => editOf)).toEqual([null, first.timestamp, second.timestamp]);
        expect(h.seen().at(-1)?.text).toBe("third");
      });

      test("a quote names the message it answers", async () => {
        const quote = { sentAt: 1_786_953_600_000, author: { aci: alice.aci, number: null }, text: "why?" };
        await h.transport.send(out(direct, { kind: "text", text: "so", styles: [], quote, files: [] }));
        expect(h.seen()).toMatchObject([{ text: "so", quoteSentAt: quote.sentAt }]);
      });

      test("half a surrogate pair does not stop a message", async () => {
        await h.transport.send(out(direct, say("broken \uD83D end")));
        expect(h.seen()[0]?.text).toStartWith("broken ");
        expect(h.seen()[0]?.text).toEndWith(" end");
      });

      test("a message is sent while a receive waits", async () => {
        const receiving = h.transport.receive(1000, never);
        await h.parked();
        const sending = h.transport.send(out(self, say("meanwhile")));
        await h.clock.advance(1000);
        await sending;
        expect(h.seen()).toMatchObject([{ text: "meanwhile" }]);
        expect((await receiving).envelopes).toEqual([]);
      });

      test("a send whose answer is lost is uncertain", async () => {
        h.loseAnswer();
        expect(await codeOf(h.transport.send(out(self, say("gone?"))))).toBe("send_uncertain");
        expect(h.seen()).toMatchObject([{ text: "gone?" }]);
      });

      test.each(["signal_rate_limited", "captcha", "untrusted_identity", "unregistered"] as const)(
        "a refusal says %s",
        async (code) => {
          h.refuse(code);
          expect(await codeOf(h.transport.send(out(direct, say("hi"))))).toBe(code);
        },
      );

      test("reading a message is told to its sender", async () => {
        const sentAt = h.personWrites("read me");
        await h.transport.markRead(firstOf(await take()));
        expect(h.readMarks()).toEqual([sentAt]);
      });
    });

    describe("files", () => {
      const bytes = Uint8Array.from({ length: 300 }, (_, index) => index % 256);
      const receiveRef = async (): Promise<string> => {
        h.personSendsFile(bytes);
        const { content } = firstOf(await take());
        const ref = content.kind === "text" ? content.attachments[0]?.ref : undefined;
        if (ref === undefined) throw new Error("expected a file");
        return ref;
      };

      test("a file comes whole", async () => {
        expect(await h.transport.attachment(await receiveRef(), 300, never)).toEqual(bytes);
      });

      test("a file over the limit is not fetched", async () => {
        expect(await codeOf(h.transport.attachment(await receiveRef(), 299, never))).toBe("attachment_unavailable");
      });

      test("a file that is not there is unavailable", async () => {
        expect(await codeOf(h.transport.attachment("12:nothing.png", 300, never))).toBe("attachment_unavailable");
      });
    });

    describe("the line", () => {
      test("while it is cut, a send is surely not sent", async () => {
        await h.cut();
        expect(await codeOf(h.transport.send(out(self, say("no"))))).toBe("signal_unreachable");
        await h.mend();
        expect(h.seen()).toEqual([]);
      });

      test("while it is cut, receive and connect say so, and connect works when it is back", async () => {
        await h.cut();
        expect(await codeOf(h.transport.receive(1000, never))).toBe("signal_unreachable");
        expect(await codeOf(h.transport.connect(never))).toBe("signal_unreachable");
        await h.mend();
        await h.transport.connect(never);
        h.phoneWrites("back");
        expect(texts(await take())).toEqual(["back"]);
      });

      test("a waiting receive notices the cut", async () => {
        const receiving = codeOf(h.transport.receive(20_000, never));
        await h.parked();
        await h.cut();
        expect(await receiving).toBe("signal_unreachable");
        await h.mend();
      });

      test("what was written while it was cut comes when it is back", async () => {
        await h.cut();
        h.phoneWrites("are you there?");
        await h.mend();
        await h.transport.connect(never);
        expect(texts(await take())).toEqual(["are you there?"]);
      });

      test("typing and read marks never reject", async () => {
        await h.transport.typing(direct, true);
        h.personWrites("x");
        const envelope = firstOf(await take());
        await h.cut();
        await h.transport.typing(direct, true);
        await h.transport.typing(self, true);
        await h.transport.markRead(envelope);
        await h.mend();
        expect(h.readMarks()).toEqual([]);
      });

      test("a lost login needs a person", async () => {
        h.unlink();
        const error = await h.transport.connect(never).catch((thrown: unknown) => thrown);
        expect(error).toBeInstanceOf(BridgeError);
        expect(error).toMatchObject({ retry: "person" });
      });
    });

    describe("disconnecting", () => {
      test("a waiting receive ends, and what it brings is not lost", async () => {
        const receiving = h.transport.receive(1000, never);
        await h.parked();
        const leaving = h.transport.disconnect();
        h.phoneWrites("last words");
        await drive(leaving);
        const last = texts(await receiving);
        await h.transport.connect(never);
        if (last.length === 0) expect(texts(await take())).toEqual(["last words"]);
        else expect(last).toEqual(["last words"]);
      });

      test("twice is as good as once, and only connect makes it usable again", async () => {
        await h.transport.disconnect();
        await h.transport.disconnect();
        expect(await codeOf(h.transport.receive(1000, never))).toBe("signal_unreachable");
        expect(await codeOf(h.transport.send(out(self, say("no"))))).toBe("signal_unreachable");
        await h.transport.connect(never);
        h.phoneWrites("yes");
        expect(texts(await take())).toEqual(["yes"]);
      });

      test("a connect that is given up does not hang", async () => {
        const stop = new AbortController();
        stop.abort();
        await h.transport.connect(stop.signal).catch((error: unknown) => expect(error).toBeInstanceOf(BridgeError));
      });
    });
  });
}

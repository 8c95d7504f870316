/** A command rings where Signal does not: once, after a minute, and only while nothing was written since. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Outbound } from "../../src/core/model.ts";
import { plainText } from "../../src/core/reply.ts";
import { withMark, withNotify } from "../../src/note-to-self.ts";
import { createMemorySignal } from "../doubles/memory.ts";
import { createVirtualClock } from "../doubles/clock.ts";
import { quietLog } from "../doubles/quiet-log.ts";

let folder: string;
beforeEach(() => void (folder = mkdtempSync(join(tmpdir(), "signalman notify-"))));
afterEach(() => rmSync(folder, { recursive: true, force: true }));

async function open() {
  const clock = createVirtualClock();
  const signal = createMemorySignal({ clock });
  const [ring, rung] = [join(folder, "ring"), join(folder, "rung")];
  writeFileSync(ring, `#!/bin/sh\n(echo "$@"; env; cat) >>"${rung}.part"\nmv "${rung}.part" "${rung}"\n`, {
    mode: 0o755,
  });
  const transport = withNotify(signal.transport, `"${ring}" --loud`, {
    clock,
    log: quietLog,
    signal: new AbortController().signal,
  });
  await transport.connect(new AbortController().signal);
  let stamp = 0;
  const send = (chat: Outbound["chat"], text: string) =>
    transport.send({ chat, timestamp: ++stamp, body: plainText(text) });
  const hasRung = async (): Promise<string> => {
    while (!existsSync(rung)) await new Promise((resolve) => setImmediate(resolve));
    return readFileSync(rung, "utf8");
  };
  return { clock, signal, transport, send, hasRung, rung };
}

test("a message that stands in Note to Self for a minute rings once; the command gets no content", async () => {
  const { clock, send, hasRung, rung } = await open();
  await send({ kind: "self" }, "a secret question");
  await clock.advance(59_000);
  expect(existsSync(rung)).toBe(false);
  await send({ kind: "self" }, "and more of it");
  await clock.advance(1_000);
  const seen = await hasRung();
  expect(seen).toStartWith("--loud\n");
  expect(seen).not.toContain("secret");
  rmSync(rung);
  // The command has a bound of its own until it has ended.
  while (clock.timerCount() > 0) await new Promise((resolve) => setImmediate(resolve));
  await send({ kind: "self" }, "a third");
  expect(clock.timerCount()).toBe(0);
});

test("what the owner writes ends the wait, and the next message begins another", async () => {
  const { clock, signal, transport, send, hasRung, rung } = await open();
  await send({ kind: "self" }, "a question");
  await clock.advance(30_000);
  signal.owner.write("yes");
  await transport.receive(1, new AbortController().signal);
  expect(clock.timerCount()).toBe(0);
  await send({ kind: "self" }, "another");
  await clock.advance(60_000);
  await hasRung();
  expect(existsSync(rung)).toBe(true);
});

test("other chats ring by themselves", async () => {
  const { clock, send } = await open();
  await send({ kind: "direct", peer: { aci: null, number: "+15550100002" } }, "hello");
  expect(clock.timerCount()).toBe(0);
});

test("a mark stands before what is said in Note to Self, styles go along; where there is no room, and elsewhere, it is left out", async () => {
  const signal = createMemorySignal({ clock: createVirtualClock() });
  const transport = withMark(signal.transport, "🤖");
  await transport.connect(new AbortController().signal);
  let stamp = 0;
  const send = (body: Outbound["body"], chat: Outbound["chat"] = { kind: "self" }) =>
    transport.send({ chat, timestamp: ++stamp, body });
  await send(plainText("draft"));
  await send({ kind: "edit", targetSentAt: 1, text: "bolder", styles: [{ start: 0, length: 6, style: "BOLD" }] });
  await send(plainText("x".repeat(1_999)));
  await send(plainText("hi"), { kind: "direct", peer: { aci: "0b7a54e2-11d5-4c0e-9c53-6a1d3f00b002", number: null } });
  expect(signal.screen().map(({ text, styles }) => [text.slice(0, 10), styles.map(({ start }) => start)])).toEqual([
    ["🤖 bolder", [3]],
    ["x".repeat(10), []],
    ["hi", []],
  ]);
});

/**
 * What is fed: every parser that reads what others wrote. A target throws when a promise is broken; a BridgeError is an
 * answer. `fed` says how much went in, so that what comes out can be held against it.
 */
import { APIError } from "@anthropic-ai/sdk";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createClaudeApi } from "../../src/claude/api.ts";
import { createFrameReader, toSessionEvent } from "../../src/claude/wire.ts";
import { claudeFailure } from "../../src/claude/failure.ts";
import { createMessagesLine } from "../../src/claude/messages.ts";
import { loadConfig } from "../../src/config.ts";
import { BridgeError } from "../../src/core/errors.ts";
import { classify, inboxKey } from "../../src/core/inbound.ts";
import { decodeMetadata, encodeMetadata, metadataPatch } from "../../src/core/metadata.ts";
import type { Account, Context, Envelope, SessionEvent } from "../../src/core/model.ts";
import { textOf } from "../../src/core/model.ts";
import { planFiles, promptText } from "../../src/core/prompt.ts";
import { renderReply } from "../../src/core/reply.ts";
import { synchronize } from "../../src/core/synchronizer.ts";
import { openLog, progressOf, readEntry, trackAll } from "../../src/core/turn.ts";
import { maskNumber, redact, redactText } from "../../src/log.ts";
import { settings, settingKeys, fileKey } from "../../src/settings.ts";
import { fromRef, toEnvelope } from "../../src/signal/daemon/envelope.ts";
import { createRest } from "../../src/signal/daemon/rest.ts";
import { salvage } from "../../src/signal/daemon/salvage.ts";
import { createSignalCli } from "../../src/signal/daemon/signal-cli.ts";
import type { Transport } from "../../src/signal/transport.ts";
import { quietLog } from "../doubles/quiet-log.ts";
import { me } from "../doubles/wire.ts";
import { createVirtualClock } from "../doubles/clock.ts";
import { type Dice } from "../sim/dice.ts";
import { mutateJson, mutateText, oddText, oddValue, pieces } from "./mutate.ts";

export type Target = {
  readonly name: string;
  /** How often it comes, against the others. */
  readonly weight: number;
  run(dice: Dice): void | Promise<void>;
};

const account: Account = { aci: me.aci, number: me.number, deviceId: 2 };
const here = new URL("../fixtures/", import.meta.url).pathname;
const load = (folder: string): { name: string; text: string }[] =>
  readdirSync(join(here, folder))
    .sort()
    .map((name) => ({ name, text: readFileSync(join(here, folder, name), "utf8") }));
const signalFiles = load("signal").filter(({ name }) => name.endsWith(".json"));
const claudeFiles = load("claude");
const signalJson: unknown[] = signalFiles.map(({ text }) => JSON.parse(text) as unknown);
const claudeJson: unknown[] = claudeFiles
  .filter(({ name }) => name.endsWith(".json"))
  .map(({ text }) => JSON.parse(text) as unknown);
const streams = claudeFiles.filter(({ name }) => name.endsWith(".sse")).map(({ text }) => text);
const frames: unknown[] = streams
  .flatMap((text) => [...text.matchAll(/^data: (.*)$/gmu)])
  .map(([, data = "null"]) => JSON.parse(data) as unknown);

const messageFrames = frames.filter((frame) => /^(?:message|content_block)_/u.test((frame as { type: string }).type));

const collect = (value: unknown, key: string): unknown[] =>
  typeof value !== "object" || value === null
    ? []
    : [...(key in value ? [value] : []), ...Object.values(value).flatMap((inner) => collect(inner, key))];
const messages = signalJson.flatMap((value) => collect(value, "envelope"));
const answers = signalJson.flatMap((value) => collect(value, "jsonrpc"));
const responses = signalJson.flatMap((value) => collect(value, "response"));
const metadataBags = claudeJson
  .flatMap((value) => collect(value, "metadata"))
  .map((holder) => (holder as { metadata: unknown }).metadata);

/** Output may not outgrow input by more than this, plus a fixed part. */
export function checkSize(what: string, output: unknown, fed: number, factor = 12): void {
  const size = typeof output === "string" ? output.length : (JSON.stringify(output) ?? "").length;
  if (size > fed * factor + 20_000) throw new Error(`${what}: ${size} characters came of ${fed}`);
}

const sizeOf = (value: unknown): number =>
  typeof value === "string" ? value.length : (JSON.stringify(value) ?? "").length;

/** What happens to an envelope on its way to Claude. */
export function follow(envelope: Envelope, fed: number): void {
  checkSize("envelope", envelope, fed);
  if (!JSON.stringify(envelope).isWellFormed()) throw new Error("an envelope holds half a character");
  classify(envelope, { account, allow: [{ kind: "self" }], isGroupAlways: true });
  inboxKey(envelope, account);
  const body = textOf(envelope);
  if (body) checkSize("files", planFiles(body), fed);
  checkSize("prompt", promptText(envelope, account, null), fed);
  for (const file of body?.attachments ?? []) attempt(() => fromRef(file.ref));
}

function attempt(work: () => unknown): void {
  try {
    work();
  } catch (error) {
    if (!(error instanceof BridgeError)) throw error;
  }
}

async function attemptLater<T>(work: Promise<T>): Promise<T | null> {
  try {
    return await work;
  } catch (error) {
    if (!(error instanceof BridgeError)) throw error;
    return null;
  }
}

/** Time passes as soon as a sleep begins. */
function hastyClock() {
  const clock = createVirtualClock();
  return {
    ...clock,
    async sleep(ms: number, signal?: AbortSignal) {
      await new Promise<void>((resolve) => setImmediate(resolve));
      if (!signal?.aborted) clock.jump(ms);
    },
  };
}

const never = new AbortController().signal;

/** A daemon that answers rubbish: the transport may fail in its words only, and what it hands out is whole. */
async function talk(
  dice: Dice,
  make: (fetch: () => Promise<Response>) => Transport,
  body: () => string,
): Promise<void> {
  let fed = 0;
  const fetch = async (): Promise<Response> => {
    const text = body();
    fed += text.length;
    if (dice.chance(0.02)) throw new TypeError("fetch failed");
    return new Response(text, {
      status: dice.chance(0.7)
        ? 200
        : dice.pick([201, 204, 400, 403, 404, 413, 429, 500, 503]) === 204
          ? 400
          : dice.pick([201, 400, 429, 500]),
      headers: dice.chance(0.1) ? { "retry-after": oddText(dice).replaceAll(/[^\x20-\x7e]/gu, "") } : {},
    });
  };
  const transport = make(fetch);
  await attemptLater(transport.connect(never));
  const batch = await attemptLater(transport.receive(1_000, never));
  for (const envelope of batch?.envelopes ?? []) follow(envelope, fed);
  if (batch) await transport.ack(batch, true);
  const outcome = await attemptLater(
    transport.send({
      chat: { kind: "self" },
      timestamp: 1,
      body: { kind: "text", text: "hello", styles: [], quote: null, files: [] },
    }),
  );
  if (outcome && !Number.isFinite(outcome.timestamp)) throw new Error("a send without a timestamp");
  checkSize("outcome", outcome, fed);
  await transport.disconnect();
}

const goodConnect = [
  JSON.stringify({ mode: "normal", versions: ["v1"], build: 2, version: "0.100" }),
  JSON.stringify([me.number]),
];
const damaged = (dice: Dice, corpus: readonly unknown[]): string => {
  const text = JSON.stringify(dice.chance(0.5) ? dice.pick(corpus) : mutateJson(dice, dice.pick(corpus), corpus));
  return dice.chance(0.4) ? mutateText(dice, text ?? "") : (text ?? "");
};

const api = createClaudeApi({ apiKey: "k", baseUrl: "http://127.0.0.1:9", clock: hastyClock() });

async function stream(dice: Dice): Promise<void> {
  const text = dice.chance(0.3) ? dice.pick(streams) : mutateText(dice, dice.pick(streams));
  const bytes = new TextEncoder().encode(text);
  const source = pieces(dice, bytes);
  const isCut = dice.chance(0.2);
  const body = new ReadableStream<Uint8Array>({
    pull(controller) {
      const piece = source.shift();
      if (piece) controller.enqueue(piece);
      else if (isCut) controller.error(new TypeError("terminated"));
      else controller.close();
    },
  });
  const response = Promise.resolve(new Response(body, { headers: { "content-type": "text/event-stream" } }));
  const events: SessionEvent[] = [];
  const read = createFrameReader();
  try {
    for await (const wire of await api.stream({ what: "follow" }, () => ({ asResponse: () => response }), never)) {
      if (wire === "silent") continue;
      const frame = read(wire);
      if (frame?.kind === "event") events.push(frame.event);
    }
  } catch (error) {
    if (!(error instanceof BridgeError)) throw error;
  }
  checkSize("events", events, text.length);
}

function turn(dice: Dice): void {
  const wires = Array.from({ length: 1 + dice.below(12) }, () =>
    dice.chance(0.5) ? dice.pick(frames) : mutateJson(dice, dice.pick(frames), frames),
  );
  const fed = sizeOf(wires);
  const read = createFrameReader();
  const events = wires.flatMap((wire) => {
    checkSize("frame", read(wire), sizeOf(wire));
    const event = toSessionEvent(wire);
    return event ? [event] : [];
  });
  checkSize("events", events, fed);
  trackAll(progressOf(events[0]?.id ?? "none"), events);
  checkSize("open", events.reduce(readEntry, openLog), fed);
  for (const event of events) if (event.type === "reply") render(event.text);
}

/** A whole turn of the Messages API, and the next one that has it in its history. */
async function messagesTurn(dice: Dice): Promise<void> {
  const wires = messageFrames.flatMap((wire) =>
    dice.chance(0.1) ? [] : [dice.chance(0.8) ? wire : mutateJson(dice, wire, messageFrames)],
  );
  const stream = async (): Promise<AsyncIterable<unknown>> =>
    (async function* () {
      yield* structuredClone(wires);
    })();
  const line = createMessagesLine({
    api: { ...api, stream, model: () => Promise.resolve(null) },
    clock: hastyClock(),
    newId: () => `new${++ids}`,
    hasWebSearch: true,
  });
  let ids = 0;
  const log: SessionEvent[] = [];
  const about = { id: "s", remoteId: null, title: "t", model: "m", effort: "low", system: "", metadata: {} };
  const tools = dice.chance(0.5) ? [{ name: "get", description: "gets", inputSchema: {}, isOfMachine: true }] : [];
  const session = { ...about, tools, history: () => log.toReversed() };
  for (const request of [{ kind: "prompt", text: "hi", files: [] }, { kind: "interrupt" }] as const)
    try {
      await line.post(
        session,
        [request],
        (frame) => {
          if (frame.kind === "event") log.push(frame.event);
        },
        never,
      );
    } catch (error) {
      if (!(error instanceof BridgeError)) throw error;
    }
  checkSize("entries", log, sizeOf(wires));
}

function render(text: string): void {
  const parts = renderReply(text);
  for (const part of parts) {
    if (part.kind !== "text") continue;
    if (Buffer.byteLength(part.text) > 2_000) throw new Error("a part is too long");
    if (part.text === "") throw new Error("a part is empty");
    for (const { start, length } of part.styles)
      if (start < 0 || length < 1 || start + length > part.text.length)
        throw new Error("a style lies outside its text");
  }
  checkSize("parts", parts, text.length, 40);
}

const markdown = [
  "# Title\n\nSome **bold _and italic_** text with `code` and [a link](https://example.org/a?b=c&d=e).\n\n- one\n  - two\n    1. three\n\n> quote\n> more\n\n```ts\nconst x = 1;\n```\n",
  "| a | b |\n|---|:-:|\n| 1 | ~~2~~ |\n\n***\n\nTerm\\* with <i>html</i> &amp; entities\n\n[ref]: https://example.org\n![image](x.png)\n",
];

function contexts(dice: Dice): void {
  const bag = (): Record<string, string> => {
    const given = mutateJson(dice, dice.pick(metadataBags), metadataBags);
    return typeof given === "object" && given !== null
      ? Object.fromEntries(
          Object.entries(given).map(([key, value]) => [
            key,
            typeof value === "string" ? value : (JSON.stringify(value) ?? ""),
          ]),
        )
      : {};
  };
  const context = (): Context => {
    const value = oddValue(dice);
    const extra = dice.chance(0.5) ? { updated_at: dice.pick(["2026-11-23T18:00:09Z", oddText(dice)]) } : {};
    return {
      ...(typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Context) : {}),
      ...extra,
    };
  };
  const [ours, theirs] = [decodeMetadata(bag()), decodeMetadata(bag())];
  const local = { ...context(), ...ours.context };
  const remote = { ...context(), ...theirs.context };
  const result = synchronize(local, remote, { local: ours.stamps, remote: theirs.stamps });
  checkSize("merged", result.merged, sizeOf(local) + sizeOf(remote));
  const patch = metadataPatch(encodeMetadata(remote, theirs.stamps), encodeMetadata(result.merged, result.stamps));
  checkSize("patch", patch, sizeOf(local) + sizeOf(remote) + 10_000);
}

function failure(dice: Dice): void {
  const body = mutateJson(dice, dice.pick(claudeJson), claudeJson) as object | undefined;
  const headers = new Headers({ "retry-after": oddText(dice).replaceAll(/[^\x20-\x7e]/gu, "") });
  const status = dice.pick([400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 503, 529]);
  const error: unknown = dice.chance(0.7) ? APIError.generate(status, body, undefined, headers) : oddValue(dice);
  const found = claudeFailure({ what: "ask" }, error);
  checkSize("failure", found.message, 0);
}

const secret = "sk-ant-api03-planted-Secret_1";
const number = "+15557654321";

/** Whatever stands around it, a key or a number is not shown whole. */
function log(dice: Dice): void {
  const around = oddText(dice);
  const shown = redactText(`${around} ${secret} ${number} ${oddText(dice)}`);
  if (shown.includes("planted") || shown.includes(number)) throw new Error("a secret is shown");
  const field = redact({ [oddText(dice)]: oddValue(dice), note: `${around} ${number}` });
  const json = JSON.stringify(field) ?? "";
  if (json.includes(number)) throw new Error("a number is shown in a field");
  if (json.length > 400_000) throw new Error("a log line is too long");
  maskNumber(oddText(dice));
}

const home = mkdtempSync(join(tmpdir(), "signalman-fuzz-"));
process.on("exit", () => rmSync(home, { recursive: true, force: true }));
const toml = settingKeys
  .filter((key) => key !== "home" && settings[key].fallback !== null)
  .map((key) => `${fileKey(key)} = ${JSON.stringify(settings[key].fallback)}\n`)
  .join("");

function config(dice: Dice): void {
  writeFileSync(join(home, "config.toml"), mutateText(dice, toml), { mode: 0o600 });
  const env = Object.fromEntries(
    Array.from({ length: dice.below(4) }, () => [
      dice.pick([
        "SIGNALMAN_ALLOW",
        "SIGNALMAN_LISTEN",
        "SIGNALMAN_SIGNAL_URL",
        "SIGNALMAN_ACCOUNT",
        "ANTHROPIC_BASE_URL",
        "SIGNALMAN_ALOW",
      ]),
      oddText(dice),
    ]),
  );
  attempt(() => loadConfig({ flags: { home }, env }));
}

export const targets: readonly Target[] = [
  {
    name: "envelopes of signal-cli",
    weight: 30,
    run(dice) {
      const wire = mutateJson(dice, dice.pick(messages), messages);
      follow(toEnvelope(wire, account), sizeOf(wire));
    },
  },
  {
    name: "salvage of REST bodies",
    weight: 12,
    run(dice) {
      const list = Array.from({ length: 1 + dice.below(4) }, () => JSON.stringify(dice.pick(messages)));
      const text = mutateText(dice, `[${list.join(",")}]`);
      const { found, lostCount } = salvage(text);
      if (lostCount > text.length) throw new Error("more was lost than there was");
      checkSize("salvaged", found, text.length);
      for (const wire of found) follow(toEnvelope(wire, account), text.length);
    },
  },
  {
    name: "answers of signal-cli",
    weight: 4,
    run: (dice) =>
      talk(
        dice,
        (fetch) =>
          createSignalCli({ baseUrl: "http://127.0.0.1:1", account: null, clock: hastyClock(), log: quietLog, fetch }),
        () =>
          damaged(dice, [
            ...answers,
            { jsonrpc: "2.0", result: [{ number: me.number }], id: 1 },
            { jsonrpc: "2.0", result: messages.slice(0, 3), id: 1 },
          ]),
      ),
  },
  {
    name: "answers of the REST API",
    weight: 4,
    run(dice) {
      let calls = 0;
      return talk(
        dice,
        (fetch) =>
          createRest({ baseUrl: "http://127.0.0.1:1", account: null, clock: hastyClock(), log: quietLog, fetch }),
        () => {
          const good = dice.chance(0.9) ? goodConnect[calls++] : undefined;
          return good ?? damaged(dice, [...responses, messages.slice(0, 3)]);
        },
      );
    },
  },
  { name: "streams of Claude", weight: 6, run: stream },
  { name: "events of Claude", weight: 20, run: turn },
  { name: "replies of the Messages API", weight: 10, run: messagesTurn },
  { name: "failures of Claude", weight: 8, run: failure },
  { name: "metadata and contexts", weight: 12, run: contexts },
  { name: "settings", weight: 3, run: config },
  {
    name: "Markdown",
    weight: 8,
    run: (dice) => render(dice.chance(0.8) ? mutateText(dice, dice.pick(markdown)) : oddText(dice)),
  },
  { name: "log", weight: 6, run: log },
];

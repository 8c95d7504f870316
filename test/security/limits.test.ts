/** What a person who may not talk to us can cost us. */
import { expect, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createClaudeApi } from "../../src/claude/api.ts";
import { createScriptedClaude } from "../doubles/scripted.ts";
import { startDaemon } from "../../src/daemon.ts";
import { BridgeError } from "../../src/core/errors.ts";
import { toEnvelope } from "../../src/signal/daemon/envelope.ts";
import { createHttp } from "../../src/signal/daemon/http.ts";
import { createMemorySignal } from "../doubles/memory.ts";
import { salvage } from "../../src/signal/daemon/salvage.ts";
import { quietLog } from "../doubles/quiet-log.ts";
import { boundary, createVirtualClock, runUntil } from "../doubles/clock.ts";
import { seeded } from "../sim/dice.ts";
import { people, simConfig } from "../sim/config.ts";

test("5,000 messages, edits and reactions of a stranger leave no row, no byte, no answer and no prompt", async () => {
  const home = mkdtempSync(join(tmpdir(), "signalman-flood-"));
  const clock = createVirtualClock();
  const signal = createMemorySignal({ clock });
  const claude = createScriptedClaude({ clock });
  const daemon = await startDaemon(simConfig(home), {
    log: quietLog,
    clock,
    random: seeded(1),
    networkKey: () => "",
    newId: () => crypto.randomUUID(),
    buildTransport: async () => signal.transport,
    buildLine: async () => claude.line,
  });
  try {
    await runUntil(clock, () => daemon.status().connection.state === "CONNECTED", 10_000);
    const sizeOf = (): number => {
      daemon.store.db.exec("PRAGMA wal_checkpoint(TRUNCATE)");
      return statSync(join(home, "signalman.db")).size;
    };
    const before = sizeOf();
    const stranger = signal.person(people.stranger, "x".repeat(10_000));
    for (let times = 0; times < 1_250; times++) {
      const { sentAt } = stranger.write("y".repeat(2_000), {
        files: [{ fileName: "f", contentType: "image/png", base64: "" }],
      });
      stranger.edit(sentAt, "z".repeat(2_000));
      stranger.react({ author: signal.account, sentAt }, "👍");
      stranger.delete(sentAt);
    }
    expect(await runUntil(clock, () => signal.queued().length === 0, 600_000)).toBe(true);
    expect(daemon.status().inbox).toMatchObject({ pending: 0, dropped: 5_000 });
    expect(sizeOf() - before).toBeLessThanOrEqual(8_192);
    expect(signal.screen()).toEqual([]);
    expect(signal.reactions()).toEqual([]);
    expect(signal.readMarks()).toEqual([]);
    expect(claude.world.sessions()).toEqual([]);
  } finally {
    const stopped = daemon.stop();
    while (!(await Promise.race([stopped.then(() => true), boundary().then(() => false)]))) clock.next(Infinity);
    rmSync(home, { recursive: true, force: true });
  }
});

test("JSON nested a million deep becomes an unknown envelope, or nothing", () => {
  const deep = (levels: number): string => "[".repeat(levels) + "]".repeat(levels);
  const wire: unknown = JSON.parse(
    `{"envelope":{"sourceNumber":"+15550100002","timestamp":1,"dataMessage":${deep(1_000_000)}}}`,
  );
  expect(toEnvelope(wire, { aci: null, number: "+15550100001" }).content.kind).toBe("unknown");
  expect(salvage(`[{"envelope":${deep(100_000)}`)).toEqual({ found: [], lostCount: 1 });
});

test("an answer of a Signal daemon that does not end is cut at its bound", async () => {
  const endless = new ReadableStream<Uint8Array>({ pull: (controller) => controller.enqueue(new Uint8Array(65_536)) });
  const http = createHttp({
    baseUrl: "http://127.0.0.1:1",
    clock: createVirtualClock(),
    fetch: async () => new Response(endless),
  });
  const asking = http.ask({ method: "GET", path: "/", what: "ask", deadlineMs: 60_000, bytesMax: 1_000_000 });
  const refusal = await asking.catch((error: unknown) => error);
  expect(refusal).toMatchObject({ answer: { status: null }, message: expect.stringContaining("too large") });
});

test("a stream of Claude that does not end is cut at its bound", async () => {
  const line = new TextEncoder().encode(`: ${"x".repeat(2 ** 20)}\n`);
  const endless = new ReadableStream<Uint8Array>({ pull: (controller) => controller.enqueue(line) });
  using server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch: () => new Response(endless, { headers: { "content-type": "text/event-stream" } }),
  });
  const api = createClaudeApi({ apiKey: "k", baseUrl: server.url.href, clock: createVirtualClock() });
  const frames = await api.stream(
    { what: "follow" },
    (client, options) => client.get("/endless", options),
    new AbortController().signal,
  );
  const fault: unknown = await Array.fromAsync(frames).catch((error: unknown) => error);
  expect(fault).toBeInstanceOf(BridgeError);
  expect(fault).toMatchObject({ code: "claude_protocol" });
});

test("every limit that docs/security.md names is there", () => {
  const doc = readFileSync(new URL("../../docs/security.md", import.meta.url), "utf8");
  const rows = [...doc.matchAll(/^\| [^|]+ \| [^|]+ \| (`\w+`(?:, `\w+`)*) in (`src\/[^|]+`) \|$/gmu)];
  expect(rows.length).toBeGreaterThanOrEqual(20);
  for (const [, names = "", files = ""] of rows)
    for (const file of files.match(/src\/[\w./-]+/gu) ?? []) {
      const source = readFileSync(new URL(`../../${file}`, import.meta.url), "utf8");
      for (const name of names.match(/\w+/gu) ?? [])
        expect(source, `${name} in ${file}`).toMatch(new RegExp(`\\b${name}\\b(?: =|:|\\()`, "u"));
    }
});

test("every test that docs/security.md names is there", () => {
  const doc = readFileSync(new URL("../../docs/security.md", import.meta.url), "utf8");
  const names = new Set([...doc.matchAll(/`(test\/[\w/-]+)`/gu)].map(([, name = ""]) => name));
  expect(names.size).toBeGreaterThan(10);
  for (const name of names)
    expect(
      [name, `${name}.test.ts`].some((path) => existsSync(new URL(`../../${path}`, import.meta.url))),
      name,
    ).toBe(true);
});

/** Every line, held to the same contract. */
import { createClaudeApi } from "../../src/claude/api.ts";
import { createCodeLine } from "../../src/claude/code-line.ts";
import { createManagedLine } from "../../src/claude/managed.ts";
import { createMessagesLine } from "../../src/claude/messages.ts";
import type { Log } from "../../src/log.ts";
import { startClaudeDouble, type DoubleOptions } from "../doubles/claude.ts";
import { createVirtualClock } from "../doubles/clock.ts";
import { startCodeBrain } from "../doubles/code-brain.ts";
import { createScriptedClaude } from "../doubles/scripted.ts";
import { lineContract, type Bench } from "./line.ts";
import { remoteLineContract } from "./line-remote.ts";

const silent: Log = { debug() {}, info() {}, warn() {}, error() {} };

async function scripted(): Promise<Bench> {
  const clock = createVirtualClock();
  const claude = createScriptedClaude({ clock, pageMax: 3, skewMs: 90_000 });
  const { world } = claude;
  return {
    line: claude.line,
    clock,
    setScript: world.setScript,
    losePost: () => claude.fail("post", { kind: "lose" }),
    cutPost: () => claude.fail("post", { kind: "refuse", code: "claude_unreachable" }),
    async hangPost() {
      claude.fail("post", { kind: "hang" });
    },
    limitPost: () => claude.fail("post", { kind: "refuse", code: "claude_rate_limited", retryAfterMs: 7000 }),
    overloadPost: () => claude.fail("post", { kind: "refuse", code: "claude_overloaded" }),
    cutStreams: () => world.cut(),
    setMute: claude.setMute,
    openStreams: () => world.sessions().reduce((sum, session) => sum + session.listeners.size, 0),
    close: () => Promise.resolve(),
    remote: {
      prompts: (id) => {
        const { log = [], queue = [] } = world.find(id) ?? {};
        return [...log, ...queue].flatMap((event) => (event.type === "prompt" ? [event.text] : []));
      },
      say: world.say,
      tail(id, text) {
        for (const listener of world.find(id)?.listeners ?? [])
          listener({ kind: "delta", eventId: "sevt_unheard", text, isFirst: false });
      },
      post: world.post,
      patch: (id, title, metadata) => world.patch(id, { title, metadata }),
      remove: world.delete,
      archive: world.archive,
      isRunning: (id) => world.find(id)?.status === "running",
      loseCreate: () => claude.fail("create", { kind: "lose" }),
      dropEcho: () => claude.fail("post", { kind: "unechoed" }),
    },
  };
}

const postPath = /POST \/v1\/(sessions\/[^/]+\/events|messages)$/u;

async function overHttp(kind: "sessions" | "messages", options: DoubleOptions = {}): Promise<Bench> {
  const clock = createVirtualClock();
  const double = await startClaudeDouble({ clock, pageMax: 3, skewMs: 90_000, ...options });
  const api = createClaudeApi({ apiKey: double.apiKey, baseUrl: double.url, clock });
  const memory = new Map<string, string>();
  const line =
    kind === "messages"
      ? createMessagesLine({ api, clock, newId: () => double.engine.newId("prompt"), hasWebSearch: true })
      : createManagedLine({
          api,
          clock,
          model: "claude-sonnet-5-5",
          toolPolicy: "ask",
          memory: { get: (key) => memory.get(key) ?? null, set: (key, value) => void memory.set(key, value) },
          random: () => 0.5,
          log: silent,
        });
  const { engine } = double;
  const promptOf = (event: { [key: string]: unknown }): string[] =>
    event["type"] === "user.message" ? [(event["content"] as { text?: string }[])[0]?.text ?? ""] : [];
  const messageOf = (text: string): object => ({ content: [{ type: "text", text }] });
  return {
    line,
    clock,
    setScript: double.setScript,
    losePost: () => double.fail(postPath, { kind: "lose" }),
    cutPost: () => double.fail(postPath, { kind: "cut" }),
    hangPost() {
      double.fail(postPath, { kind: "hang" });
      return double.next(postPath);
    },
    limitPost: () =>
      double.fail(postPath, { kind: "status", status: 429, type: "rate_limit_error", headers: { "retry-after": "7" } }),
    overloadPost: () => double.fail(postPath, { kind: "status", status: 529, type: "overloaded_error" }),
    cutStreams: () => double.cutStreams(),
    setMute: double.setMute,
    openStreams: double.openStreams,
    close: double.close,
    remote:
      kind === "messages"
        ? null
        : {
            prompts: (id) => [...engine.need(id).log, ...engine.need(id).queue].flatMap(promptOf),
            say: (id, text) => void engine.append(engine.need(id), "agent.message", messageOf(text)),
            tail(id, text) {
              const delta = { type: "content_delta", index: 0, content: { type: "text", text } };
              for (const listener of engine.need(id).listeners)
                listener({ type: "event_delta", event_id: "sevt_unheard", delta });
            },
            post: (id, text) => void engine.accept(engine.need(id), { type: "user.message", ...messageOf(text) }),
            patch: (id, title, metadata) => engine.patch(engine.need(id), { title, metadata }),
            remove: (id) => engine.delete(engine.need(id)),
            archive: (id) => engine.archive(engine.need(id)),
            isRunning: (id) => engine.need(id).status === "running",
            loseCreate: () => double.fail(/POST \/v1\/sessions$/u, { kind: "lose" }),
            dropEcho: () => double.fail(postPath, { kind: "unechoed" }),
          },
  };
}

async function ownProgram(): Promise<Bench> {
  const clock = createVirtualClock();
  const brain = await startCodeBrain();
  const { program, env, base } = brain;
  let count = 0;
  const newId = (): string => `id-${++count}`;
  const line = createCodeLine({ program, env, clock, newId, folder: () => Promise.resolve(base) });
  const unreachable = { error: "unknown", status: null } as const;
  return {
    line,
    clock,
    setScript: brain.setScript,
    losePost: () => brain.first(unreachable),
    cutPost: () => brain.first(unreachable),
    hangPost: brain.hang,
    limitPost: () => brain.first({ error: "rate_limit", status: 429, resetsAt: clock.now() / 1_000 + 7 }),
    overloadPost: () => brain.first({ error: "overloaded", status: 529 }),
    cutStreams: brain.crash,
    setMute: brain.setMute,
    openStreams: brain.openTurns,
    async close() {
      await line.close();
      await brain.close();
    },
    remote: null,
  };
}

lineContract("claude-code", ownProgram);
lineContract("scripted", scripted);
remoteLineContract("scripted", scripted);
lineContract("messages", () => overHttp("messages"));
lineContract("sessions", () => overHttp("sessions"));
remoteLineContract("sessions", () => overHttp("sessions"));
remoteLineContract("sessions, where all times tie", () => overHttp("sessions", { stepMs: 0 }));
remoteLineContract("sessions, prompts echoed once, as queued", () => overHttp("sessions", { echo: "queued" }));
remoteLineContract("sessions, prompts echoed once, as processed", () => overHttp("sessions", { echo: "processed" }));

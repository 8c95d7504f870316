/** Every backend, held to the same contract. */
import { createClaudeApi } from "../../src/claude/api.ts";
import { createMessagesBackend } from "../../src/claude/messages.ts";
import { createScriptedClaude } from "../doubles/scripted.ts";
import { createSessionsBackend } from "../../src/claude/sessions.ts";
import type { Log } from "../../src/log.ts";
import { startClaudeDouble, type DoubleOptions } from "../doubles/claude.ts";
import { createFakeClock } from "../doubles/fake-clock.ts";
import { backendContract, type Bench } from "./backend.ts";
import { remoteBackendContract } from "./backend-remote.ts";

const silent: Log = { debug() {}, info() {}, warn() {}, error() {} };

async function scripted(): Promise<Bench> {
  const clock = createFakeClock();
  const claude = createScriptedClaude({ clock, pageMax: 3, skewMs: 90_000 });
  const { world } = claude;
  return {
    backend: claude.backend,
    clock,
    setScript: world.setScript,
    loseSend: () => claude.fail("send", { kind: "lose" }),
    cutSend: () => claude.fail("send", { kind: "refuse", code: "claude_unreachable" }),
    async hangSend() {
      claude.fail("send", { kind: "hang" });
    },
    limitSend: () => claude.fail("send", { kind: "refuse", code: "claude_rate_limited", retryAfterMs: 7000 }),
    overloadSend: () => claude.fail("send", { kind: "refuse", code: "claude_overloaded" }),
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
          listener({ kind: "delta", eventId: "sevt_unheard", text });
      },
      post: world.post,
      patch: (id, title, metadata) => world.patch(id, { title, metadata }),
      remove: world.delete,
      archive: world.archive,
      isRunning: (id) => world.find(id)?.status === "running",
    },
  };
}

const sendPath = /POST \/v1\/(sessions\/[^/]+\/events|messages)$/u;

async function overHttp(kind: "sessions" | "messages", options: DoubleOptions = {}): Promise<Bench> {
  const clock = createFakeClock();
  const double = await startClaudeDouble({ clock, pageMax: 3, skewMs: 90_000, ...options });
  const api = createClaudeApi({ apiKey: double.apiKey, baseUrl: double.url, clock });
  const memory = new Map<string, string>();
  const backend =
    kind === "messages"
      ? createMessagesBackend({ api, clock, newId: () => double.engine.newId("prompt") })
      : createSessionsBackend({
          api,
          clock,
          model: "claude-sonnet-5-5",
          system: "You answer in a Signal chat.",
          toolPolicy: "ask",
          memory: { get: (key) => memory.get(key) ?? null, set: (key, value) => void memory.set(key, value) },
          random: () => 0.5,
          log: silent,
        });
  const { engine } = double;
  const promptOf = (event: { [key: string]: unknown }): string[] =>
    event["type"] === "user.message" ? [(event["content"] as { text?: string }[])[0]?.text ?? ""] : [];
  return {
    backend,
    clock,
    setScript: double.setScript,
    loseSend: () => double.fail(sendPath, { kind: "lose" }),
    cutSend: () => double.fail(sendPath, { kind: "cut" }),
    hangSend() {
      double.fail(sendPath, { kind: "hang" });
      return double.next(sendPath);
    },
    limitSend: () =>
      double.fail(sendPath, { kind: "status", status: 429, type: "rate_limit_error", headers: { "retry-after": "7" } }),
    overloadSend: () => double.fail(sendPath, { kind: "status", status: 529, type: "overloaded_error" }),
    cutStreams: () => double.cutStreams(),
    setMute: double.setMute,
    openStreams: double.openStreams,
    close: double.close,
    remote:
      kind === "messages"
        ? null
        : {
            prompts: (id) => [...engine.need(id).log, ...engine.need(id).queue].flatMap(promptOf),
            say: (id, text) =>
              void engine.append(engine.need(id), "agent.message", { content: [{ type: "text", text }] }),
            tail(id, text) {
              const delta = { type: "content_delta", index: 0, content: { type: "text", text } };
              for (const listener of engine.need(id).listeners)
                listener({ type: "event_delta", event_id: "sevt_unheard", delta });
            },
            post: (id, text) =>
              void engine.accept(engine.need(id), { type: "user.message", content: [{ type: "text", text }] }),
            patch: (id, title, metadata) => engine.patch(engine.need(id), { title, metadata }),
            remove: (id) => engine.delete(engine.need(id)),
            archive: (id) => engine.archive(engine.need(id)),
            isRunning: (id) => engine.need(id).status === "running",
          },
  };
}

backendContract("scripted", scripted);
remoteBackendContract("scripted", scripted);
backendContract("messages", () => overHttp("messages"));
backendContract("sessions", () => overHttp("sessions"));
remoteBackendContract("sessions", () => overHttp("sessions"));
remoteBackendContract("sessions, where all times tie", () => overHttp("sessions", { stepMs: 0 }));
remoteBackendContract("sessions, prompts echoed once, as queued", () => overHttp("sessions", { echo: "queued" }));
remoteBackendContract("sessions, prompts echoed once, as processed", () => overHttp("sessions", { echo: "processed" }));

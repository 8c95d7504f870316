/**
 * The world of the demo and of the self-test: Signal in memory, and a Claude that speaks the Messages API on loopback.
 *
 *   demo      the daemon in this process ─▶ signal.transport (signal/memory.ts)
 *   selftest  the child's transport ─▶ POST /signal/<method> ─▶ the same; it keeps a message until the child has acknowledged it
 *   both      the backend `messages` ─▶ POST /v1/messages ─▶ a parrot over SSE (every byte by itself: inside each character, too)
 *
 * The world outlives a child that is killed. The child is the shipped program: its loops, its database and its way to Claude are the
 * real ones. Only the wire to Signal is simpler than any real transport's.
 */
import type { Clock } from "../clock.ts";
import { BridgeError, toFault, type Fault } from "../core/errors.ts";
import type { Millis } from "../core/model.ts";
import { withoutTimeLine } from "../core/when.ts";
import { createMemoryTransport } from "../signal/memory.ts";
import type { Batch, Transport } from "../signal/transport.ts";
import { listen } from "../status/listen.ts";

/** A fault of Claude's next answer; `cut`: it ends in the middle. */
export type ClaudeFault = { readonly status: number; readonly retryAfterSeconds?: number } | "cut";

/** The state of a turn: the results of tools since the prompt, and whether Claude has tools at all. */
export type Part = { readonly results: readonly { readonly isError: boolean }[]; readonly hasTools: boolean };

export type DemoReply = string | { readonly tool: string; readonly input: unknown };
/** Makes Claude's reply to a prompt, and may take time to think. */
type Reader = (prompt: string, part: Part) => DemoReply | Promise<DemoReply>;

export type World = Awaited<ReturnType<typeof openWorld>>;

/** Opens a Signal and a Claude who answers by `reply`. */
export async function openWorld(clock: Clock, reply: Reader) {
  const signal = createMemoryTransport({ clock });
  const faults: ClaudeFault[] = [];
  const call = createSignalCalls(signal.transport);
  const { url, stop } = await listen({ host: "127.0.0.1", port: 0 }, async (request) => {
    const body: unknown = await request.json();
    const [, family, method = ""] = new URL(request.url).pathname.split("/");
    return family === "signal" ? Response.json(await call(method, body)) : answer(body, reply, faults.shift(), clock);
  });
  return {
    url,
    close: stop,
    /** The settings that make this world's Claude the child's. */
    claude: { SIGNALMAN_BACKEND: "messages", ANTHROPIC_API_KEY: "invented", ANTHROPIC_BASE_URL: url },
    signal,
    failClaude: (...next: readonly ClaudeFault[]) => void faults.push(...next),
  };
}

type Answer = { readonly result: unknown } | { readonly fault: Fault };

/** The methods of a transport that take and give plain data, by name. */
function createSignalCalls(transport: Transport) {
  const never = new AbortController().signal;
  let handedOut: Batch | null = null;
  const methods: Readonly<Record<string, (input: never) => unknown>> = {
    connect: () => transport.connect(never),
    receive: async (timeoutMs: Millis) => (handedOut = await transport.receive(timeoutMs, never)),
    ack: (isCommitted: boolean) => handedOut && transport.ack(handedOut, isCommitted),
    send: transport.send,
    disconnect: transport.disconnect,
  };
  return async (method: string, input: unknown): Promise<Answer> => {
    try {
      return { result: (await methods[method]?.(input as never)) ?? null };
    } catch (error) {
      return { fault: toFault(error) };
    }
  };
}

/** The child's transport: the world's over HTTP; methods that can lose or double no message are those of a Signal of its own. */
export function worldTransport(url: string, clock: Clock): Transport {
  const call = async <T>(method: string, input: unknown = null, signal: AbortSignal | null = null): Promise<T> => {
    const init = { method: "POST", body: JSON.stringify(input), signal };
    const reply = await fetch(`${url}/signal/${method}`, init)
      .then((response) => response.json() as Promise<{ result: T; fault?: Fault }>)
      .catch((cause: unknown) => {
        throw new BridgeError("signal_unreachable", `Cannot ${method} as the world does not answer`, { cause });
      });
    if (reply.fault) throw new BridgeError(reply.fault.code, reply.fault.message);
    return reply.result;
  };
  return {
    ...createMemoryTransport({ clock }).transport,
    connect: (signal) => call("connect", null, signal),
    receive: (timeoutMs) => call("receive", timeoutMs),
    ack: (_batch, isCommitted) => call("ack", isCommitted),
    send: (message) => call("send", message),
    disconnect: () => call<void>("disconnect").catch(() => undefined),
  };
}

type Block = { readonly type: string; readonly text?: string; readonly is_error?: boolean };
type Asked = {
  readonly tools?: readonly unknown[];
  readonly messages: readonly { role: string; content: string | Block[] }[];
};

/** Reads the last prompt from a request, and the results of tools since. */
function read({ tools = [], messages }: Asked): { readonly prompt: string; readonly part: Part } {
  const results: { isError: boolean }[] = [];
  for (const { role, content } of messages.toReversed()) {
    if (role !== "user") continue;
    const blocks: readonly Block[] = typeof content === "string" ? [{ type: "text", text: content }] : content;
    const prompt = blocks.map(({ text = "" }) => text).join("");
    if (prompt !== "") return { prompt, part: { results, hasTools: tools.some((tool) => isLocal(tool)) } };
    for (const block of blocks) results.unshift({ isError: block.is_error === true });
  }
  return { prompt: "", part: { results, hasTools: false } };
}

const isLocal = (tool: unknown): boolean => String((tool as { name?: unknown }).name).startsWith("local_");

/** **Source:** docs.anthropic.com, "Streaming messages", for the frames. */
async function answer(body: unknown, reply: Reader, fault: ClaudeFault | undefined, clock: Clock): Promise<Response> {
  if (fault !== undefined && fault !== "cut") {
    const { status, retryAfterSeconds: seconds } = fault;
    const headers: Record<string, string> = seconds === undefined ? {} : { "retry-after": String(seconds) };
    const error = { type: status === 429 ? "rate_limit_error" : "api_error", message: "as this world wants it" };
    return Response.json({ type: "error", error }, { status, headers });
  }
  const { prompt, part } = read(body as Asked);
  const said = await reply(withoutTimeLine(prompt), part);
  const isText = typeof said === "string";
  const use = isText ? null : { type: "tool_use", id: `toolu_${crypto.randomUUID()}`, name: said.tool, input: {} };
  const delta = isText
    ? { type: "text_delta", text: said }
    : { type: "input_json_delta", partial_json: JSON.stringify(said.input) };
  const frames = [
    { type: "message_start", message: { id: crypto.randomUUID(), usage: { input_tokens: 1, output_tokens: 1 } } },
    { type: "content_block_start", index: 0, content_block: use ?? { type: "text", text: "" } },
    { type: "content_block_delta", index: 0, delta },
    { type: "content_block_stop", index: 0 },
    { type: "message_delta", delta: { stop_reason: isText ? "end_turn" : "tool_use" }, usage: { output_tokens: 1 } },
    { type: "message_stop" },
  ];
  const text = frames.map((frame) => `event: ${frame.type}\ndata: ${JSON.stringify(frame)}\n\n`).join("");
  const bytes = new TextEncoder().encode(text);
  const end = fault === "cut" ? bytes.length / 2 : bytes.length;
  let at = 0;
  const stream = new ReadableStream<Uint8Array>({
    async pull(controller) {
      // Each byte in a packet of its own, as far as the system goes along.
      await clock.sleep(0);
      if (at < end) controller.enqueue(bytes.subarray(at, ++at));
      else controller.close();
    },
  });
  return new Response(stream, { headers: { "content-type": "text/event-stream" } });
}

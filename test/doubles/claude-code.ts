/**
 * The owner's `claude` program, as its stream of JSON lines has it: an executable that takes the options and frames that the real one
 * takes, refuses what it refuses, keeps its transcripts in CLAUDE_CONFIG_DIR, and asks before it writes or runs. What Claude says
 * comes from a brain over HTTP (`code-brain.ts`), whose address is in the file `brain` there.
 * **Source:** Claude Code 2.1.197, tried by hand against a local Messages API.
 */
import { spawn, spawnSync } from "node:child_process";
import { randomUUID } from "node:crypto";
import { appendFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { Step } from "./code-brain.ts";

type Json = { readonly [key: string]: unknown };
const config = process.env["CLAUDE_CONFIG_DIR"] ?? "";
const uuidForm = /^[\da-f]{8}-[\da-f]{4}-[\da-f]{4}-[\da-f]{4}-[\da-f]{12}$/u;

function fail(words: string): never {
  process.stderr.write(`${words}\n`);
  process.exit(1);
}

/** Options with their forms; an empty one takes no value. */
const forms: Readonly<Record<string, RegExp>> = {
  "-p": /^$/u,
  "--verbose": /^$/u,
  "--include-partial-messages": /^$/u,
  "--replay-user-messages": /^$/u,
  "--input-format": /^stream-json$/u,
  "--output-format": /^stream-json$/u,
  "--permission-prompt-tool": /^stdio$/u,
  "--permission-mode": /^default$/u,
  "--setting-sources": /^user$/u,
  "--tools": /^(\w+,)*\w+$/u,
  "--settings": /^\{.*\}$/su,
  "--model": /^[\w.[\]-]+$/u,
  "--effort": /^(low|medium|high|xhigh|max)$/u,
  "--session-id": uuidForm,
  "--resume": uuidForm,
};

function readOptions(words: readonly string[]): ReadonlyMap<string, string> {
  const options = new Map<string, string>();
  for (let at = 0; at < words.length; at++) {
    const name = words[at] ?? "";
    const form = forms[name] ?? fail(`error: unknown option '${name}'`);
    const value = form.source === "^$" ? "" : (words[++at] ?? "");
    if (!form.test(value)) fail(`error: option '${name}' argument '${value}' is invalid`);
    options.set(name, value);
  }
  if (!options.has("-p") || !options.has("--input-format")) fail("Error: this double plays the stream alone");
  // What the folder says itself would be obeyed, and its servers started, before anything is asked.
  if (!options.has("--setting-sources")) fail("Error: the folder's own settings would count");
  if (!options.has("--verbose")) fail("Error: When using --print, --output-format=stream-json requires --verbose");
  return options;
}

if (process.argv[2] === "--version") {
  const file = join(config, "version");
  process.stdout.write(`${existsSync(file) ? readFileSync(file, "utf8") : "2.1.197"} (Claude Code)\n`);
  process.exit(0);
}
const options = readOptions(process.argv.slice(2));
const { permissions } = JSON.parse(options.get("--settings") ?? "{}") as { permissions?: { ask?: string[] } };
const asks = new Set(permissions?.ask ?? []);
const tools = new Set(options.get("--tools")?.split(",") ?? []);
/** Its own tools begin with a capital. */
const isThere = (name: string): boolean => !/^[A-Z]/u.test(name) || tools.has(name);
const sessionId = options.get("--resume") ?? options.get("--session-id") ?? randomUUID();
const folder = join(config, "projects", process.cwd().replaceAll(/[^a-z\d]/giu, "-"));
const transcript = join(folder, `${sessionId}.jsonl`);
const isLoggedIn = !existsSync(join(config, "logged-out"));
writeFileSync(join(config, "environment"), Object.keys(process.env).sort().join("\n"));

// What Claude is told of the folder: by this git starts what the folder's configuration names.
if (process.env["CLAUDE_CODE_DISABLE_GIT_INSTRUCTIONS"] !== "1")
  spawnSync("git", ["--no-optional-locks", "status", "--short"]);

const word = (value: unknown): string => (typeof value === "string" ? value : "");
const print = (frame: Json): void =>
  void process.stdout.write(
    `${JSON.stringify({ ...frame, session_id: sessionId, uuid: frame["uuid"] ?? randomUUID() })}\n`,
  );
const usage = (turns: number) => ({ input_tokens: 10 * turns, output_tokens: 5 * turns, cache_read_input_tokens: 0 });

if (options.has("--session-id") && existsSync(transcript)) fail(`Error: Session ID ${sessionId} is already in use.`);
if (options.has("--resume") && !existsSync(transcript)) {
  const words = `No conversation found with session ID: ${sessionId}`;
  print({
    type: "result",
    subtype: "error_during_execution",
    is_error: true,
    num_turns: 0,
    errors: [words],
    usage: usage(0),
    total_cost_usd: 0,
  });
  fail(words);
}

const note = (entry: Json): void => {
  mkdirSync(folder, { recursive: true });
  appendFileSync(transcript, `${JSON.stringify(entry)}\n`);
};
const hasSeen = (uuid: string): boolean =>
  existsSync(transcript) && readFileSync(transcript, "utf8").includes(`"uuid":"${uuid}"`);

type Asking = { readonly requestId: string; readonly settle: (answer: Json) => void };
let asking: Asking | null = null;
let stop = new AbortController();
let [isClosed, isBusy, hasBegun, costUsd] = [false, false, false, 0];
const queue: { uuid: string; content: readonly Json[] }[] = [];

/** Permission results as the real one takes them. */
function readAnswer(answer: Json): { readonly isAllowed: boolean; readonly words: string; readonly input: Json } {
  const { behavior, updatedInput, message } = answer;
  if (behavior === "allow" && typeof updatedInput === "object" && updatedInput !== null)
    return { isAllowed: true, words: "", input: updatedInput as Json };
  if (behavior === "deny" && typeof message === "string") return { isAllowed: false, words: message, input: {} };
  return { isAllowed: false, words: "Tool permission request failed: ZodError", input: {} };
}

/** Does it, as the tool of that name would. */
async function execute(name: string, input: Json): Promise<{ readonly text: string; readonly isError: boolean }> {
  const path = word(input["file_path"]);
  if (!isThere(name)) return { text: `No such tool available: ${name}`, isError: true };
  if (name === "Write") writeFileSync(path, String(input["content"]));
  if (name === "Edit") {
    const before = readFileSync(path, "utf8");
    writeFileSync(
      path,
      before.replace(String(input["old_string"]), () => String(input["new_string"])),
    );
  }
  if (name !== "Bash") return { text: `${name} is done`, isError: false };
  // In a group of its own, as there.
  const child = spawn("/bin/sh", ["-c", String(input["command"])], { detached: true });
  let text = "";
  child.stdout.on("data", (chunk: Buffer) => (text += chunk.toString()));
  const code = await new Promise<number | null>((resolve) => child.on("close", resolve));
  return { text, isError: code !== 0 };
}

async function useTool(name: string, input: Json, mayAsk: boolean): Promise<void> {
  const id = `toolu_${randomUUID().slice(0, 8)}`;
  const block = { type: "tool_use", id, name, input };
  note({ type: "assistant", content: [block] });
  print({
    type: "assistant",
    parent_tool_use_id: null,
    message: { id: `msg_${id}`, role: "assistant", content: [block] },
  });
  let answer = { isAllowed: true, words: "", input };
  if (isThere(name) && (mayAsk || asks.has(name))) {
    const requestId = randomUUID();
    const request = { subtype: "can_use_tool", tool_name: name, input, tool_use_id: id };
    const answered = new Promise<Json>((settle) => (asking = { requestId, settle }));
    process.stdout.write(`${JSON.stringify({ type: "control_request", request_id: requestId, request })}\n`);
    if (isClosed) closeAsking();
    answer = readAnswer(await answered);
    asking = null;
    if (stop.signal.aborted) return;
  }
  const { text, isError } = answer.isAllowed
    ? await execute(name, answer.input)
    : { text: answer.words, isError: true };
  const result = { type: "tool_result", tool_use_id: id, content: text, is_error: isError };
  note({ type: "user", content: [result] });
  print({ type: "user", parent_tool_use_id: null, message: { role: "user", content: [result] } });
}

function closeAsking(): void {
  const message = "Tool permission request failed: Error: Tool permission stream closed before response received";
  asking?.settle({ behavior: "deny", message });
}

function say(pieces: readonly string[], isWhole: boolean, id = `msg_${randomUUID().slice(0, 8)}`): void {
  const stream = (event: Json): void => print({ type: "stream_event", parent_tool_use_id: null, event });
  stream({ type: "message_start", message: { id, role: "assistant", content: [] } });
  stream({ type: "content_block_start", index: 0, content_block: { type: "text", text: "" } });
  for (const text of pieces) stream({ type: "content_block_delta", index: 0, delta: { type: "text_delta", text } });
  if (isWhole) sayWhole(id, pieces.join(""));
}

function sayWhole(id: string, text: string): void {
  const content = [{ type: "text", text }];
  note({ type: "assistant", content });
  print({ type: "assistant", parent_tool_use_id: null, message: { id, role: "assistant", content } });
}

function synthetic(error: string, text: string): void {
  const message = { id: randomUUID(), model: "<synthetic>", role: "assistant", content: [{ type: "text", text }] };
  print({ type: "assistant", parent_tool_use_id: null, message, error });
}

const end = (more: Json): void => {
  costUsd += 0.01;
  const common = {
    type: "result",
    subtype: "success",
    is_error: false,
    stop_reason: "end_turn",
    terminal_reason: "completed",
  };
  print({ ...common, num_turns: 1, api_error_status: null, usage: usage(1), total_cost_usd: costUsd, ...more });
};

/** Plays one step; a text is what ends the turn. */
async function play(step: Step): Promise<Json | null> {
  if ("write" in step) say(step.write, step.isWhole);
  else if ("use" in step) await useTool(step.use, step.input as Json, false);
  else if ("ask" in step) await useTool(step.ask, step.input as Json, true);
  else if ("crash" in step) process.kill(process.pid, "SIGKILL");
  else if ("print" in step) process.stdout.write(step.print);
  else if ("error" in step) {
    if (step.resetsAt !== undefined)
      print({ type: "rate_limit_event", rate_limit_info: { status: "rejected", resetsAt: step.resetsAt } });
    if (step.isRetried)
      print({ type: "system", subtype: "api_retry", attempt: 1, error: step.error, error_status: step.status });
    synthetic(step.error, "API Error");
    return { is_error: true, api_error_status: step.status, stop_reason: "stop_sequence", result: "API Error" };
  } else {
    const delta = { stop_reason: step.stop, stop_details: { category: step.stop === "refusal" ? "cyber" : null } };
    print({ type: "stream_event", parent_tool_use_id: null, event: { type: "message_delta", delta } });
    return { stop_reason: step.stop };
  }
  return null;
}

async function turn(text: string): Promise<void> {
  if (!isLoggedIn) {
    synthetic("authentication_failed", "Not logged in · Please run /login");
    return end({ is_error: true, result: "Not logged in · Please run /login" });
  }
  const body = JSON.stringify({ text, sessionId, model: options.get("--model") ?? "" });
  const brain = readFileSync(join(config, "brain"), "utf8");
  try {
    const response = await fetch(`${brain}/turn`, { method: "POST", body, signal: stop.signal });
    if (!response.body) throw new Error("no steps");
    let rest = "";
    for await (const chunk of response.body.pipeThrough(new TextDecoderStream())) {
      const lines = (rest + chunk).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) {
        const over = await play(JSON.parse(line) as Step);
        if (stop.signal.aborted) return;
        if (over) return end(over);
      }
    }
    end({});
  } catch (error) {
    if (!stop.signal.aborted) throw error;
  }
}

async function work(): Promise<void> {
  if (isBusy) return;
  isBusy = true;
  for (let next = queue.shift(); next; next = queue.shift()) {
    const { uuid, content } = next;
    const echo = { type: "user", parent_tool_use_id: null, message: { role: "user", content }, uuid, isReplay: true };
    if (hasSeen(uuid)) {
      print(echo);
      continue;
    }
    stop = new AbortController();
    print({ type: "system", subtype: "init", cwd: process.cwd(), model: options.get("--model"), tools: [] });
    print({ type: "system", subtype: "status", status: "requesting" });
    note({ type: "user", uuid, content });
    print({ ...echo, timestamp: "2026-11-30T12:00:00.000Z" });
    const texts = content.map(({ text = "" }) => String(text));
    // The last of them is what was typed: files that it names by `@path` go along.
    const files = [...(texts.at(-1) ?? "").matchAll(/(?:^|\s)@(\S+)/gu)].map(([, path = ""]) =>
      readFileSync(path, "utf8"),
    );
    await turn([...texts.slice(0, texts.length > 1 ? -1 : 1), ...files].join(""));
    if (!stop.signal.aborted) continue;
    print({
      type: "user",
      message: { role: "user", content: [{ type: "text", text: "[Request interrupted by user]" }] },
    });
    end({ subtype: "error_during_execution", is_error: true, terminal_reason: "aborted_streaming" });
  }
  isBusy = false;
  if (isClosed) process.exit(0);
}

function readUser(frame: Json): void {
  const { role, content } = (frame["message"] ?? {}) as Json;
  const uuid = word(frame["uuid"]) || randomUUID();
  const blocks = Array.isArray(content) ? (content as Json[]) : [];
  const isRight = (block: Json): boolean =>
    block["type"] === "text" ? String(block["text"]).trim() !== "" : /^(image|document)$/u.test(String(block["type"]));
  if (role !== "user" || !uuidForm.test(uuid) || blocks.length === 0 || !blocks.every(isRight))
    fail(
      `Error parsing streaming input line: Expected message role 'user', got '${JSON.stringify(frame).slice(0, 200)}'`,
    );
  hasBegun = true;
  queue.push({ uuid, content: blocks });
  void work();
}

function readRequest(requestId: string, request: Json): void {
  const respond = (response: Json): void =>
    print({ type: "control_response", response: { request_id: requestId, ...response } });
  if (request["subtype"] === "initialize" && !hasBegun) {
    const account = { tokenSource: isLoggedIn ? "claude.ai" : "none", apiProvider: "firstParty" };
    const models = ["default", "claude-sonnet-5-5", "opus"].map((value) => ({ value, displayName: `The ${value}` }));
    return respond({ subtype: "success", response: { commands: [], models, account } });
  }
  if (request["subtype"] !== "interrupt")
    return respond({ subtype: "error", error: "Unsupported control request subtype" });
  if (asking)
    process.stdout.write(`${JSON.stringify({ type: "control_cancel_request", request_id: asking.requestId })}\n`);
  respond({ subtype: "success" });
  if (!isBusy) return;
  stop.abort();
  asking?.settle({});
}

function readLine(line: string): void {
  let frame: Json;
  try {
    frame = JSON.parse(line) as Json;
  } catch (error) {
    fail(`Error parsing streaming input line: ${line}: ${String(error)}`);
  }
  const response = (frame["response"] ?? {}) as Json;
  if (frame["type"] === "user") readUser(frame);
  if (frame["type"] === "control_request") readRequest(String(frame["request_id"]), frame["request"] as Json);
  if (frame["type"] !== "control_response" || response["request_id"] !== asking?.requestId) return;
  print(frame);
  asking?.settle((response["response"] ?? {}) as Json);
}

createInterface({ input: process.stdin })
  .on("line", (line) => line !== "" && readLine(line))
  .on("close", () => {
    isClosed = true;
    closeAsking();
    if (!isBusy) process.exit(0);
  });
process.stdout.on("error", () => process.exit(0));

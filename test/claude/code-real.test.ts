/**
 * The real `claude` program, where one is on the PATH, over a Messages API of ours on loopback: what the double plays is what it does.
 * Its home and settings are fresh ones; nothing leaves this machine.
 */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createCodeLine } from "../../src/claude/code-line.ts";
import { systemClock } from "../../src/clock.ts";
import type { Request } from "../../src/claude/line.ts";
import { createLocal, heardOf, never } from "../contract/line.ts";

type Block = { readonly type: string; readonly text?: string; readonly name?: string; readonly input?: object };

/** One answer as a stream. **Source:** Claude API guide, "Streaming Messages". */
function streamOf(id: string, block: Block): string {
  const usage = { input_tokens: 10, output_tokens: 5, cache_creation_input_tokens: 0, cache_read_input_tokens: 0 };
  const message = { id, type: "message", role: "assistant", model: "claude-sonnet-5", content: [], usage };
  const empty = block.type === "text" ? { type: "text", text: "" } : { ...block, id: `toolu_${id}`, input: {} };
  const delta =
    block.type === "text"
      ? { type: "text_delta", text: block.text }
      : { type: "input_json_delta", partial_json: JSON.stringify(block.input) };
  const stop_reason = block.type === "text" ? "end_turn" : "tool_use";
  const frames = [
    { type: "message_start", message },
    { type: "content_block_start", index: 0, content_block: empty },
    { type: "content_block_delta", index: 0, delta },
    { type: "content_block_stop", index: 0 },
    { type: "message_delta", delta: { stop_reason, stop_sequence: null }, usage: { output_tokens: 5 } },
    { type: "message_stop" },
  ];
  return frames.map((frame) => `event: ${frame.type}\ndata: ${JSON.stringify(frame)}\n\n`).join("");
}

const program = Bun.which("claude");
if (program === null) console.warn("the tests of the real claude program are skipped: there is none on the PATH");

describe.skipIf(program === null)("the real claude program", () => {
  let base = "";
  let api: Server;
  let asked: string[] = [];
  let bodies: string[] = [];
  let line: ReturnType<typeof createCodeLine>;
  let ids = 0;
  const start = (): void => {
    const { PATH } = process.env;
    const env = { PATH, HOME: base, CLAUDE_CONFIG_DIR: join(base, "config"), ANTHROPIC_API_KEY: "not for the child" };
    const newId = (): string => `id-${++ids}`;
    const folder = () => Promise.resolve(base);
    line = createCodeLine({ program: program ?? "", env, clock: systemClock, newId, folder });
  };
  beforeEach(async () => {
    base = realpathSync(mkdtempSync(join(tmpdir(), "signalman-claude-")));
    asked = [];
    bodies = [];
    api = createServer((request, response) => {
      let body = "";
      request.on("data", (chunk: Buffer) => (body += chunk.toString()));
      request.on("end", () => {
        if (request.method !== "POST") return void response.writeHead(404).end();
        const { messages } = JSON.parse(body) as { messages: { role: string; content: string | Block[] }[] };
        const content = messages.findLast(({ role }) => role === "user")?.content ?? "";
        const last =
          typeof content === "string"
            ? { type: "text", text: content }
            : content.findLast(({ text }) => text !== "(from the phone)");
        const text = last?.type === "text" ? (last.text ?? "") : "(result)";
        asked.push(text);
        bodies.push(body);
        const input = { file_path: join(base, "made.md"), content: "made\n" };
        const use = (name: string, fields: object): Block => ({ type: "tool_use", name, input: fields });
        const uses: { readonly [said: string]: Block } = {
          write: use("Write", input),
          read: use("Read", { file_path: input.file_path }),
          helper: use("Agent", { description: "look around", prompt: "look", isolation: "worktree" }),
        };
        const block = uses[text] ?? { type: "text", text: `re: ${text}` };
        response.writeHead(200, { "content-type": "text/event-stream" });
        response.end(streamOf(`msg_${asked.length}`, block));
      });
    });
    await new Promise<void>((resolve) => api.listen(0, "127.0.0.1", resolve));
    const url = `http://127.0.0.1:${(api.address() as AddressInfo).port}`;
    mkdirSync(join(base, "config"));
    const env = {
      ANTHROPIC_BASE_URL: url,
      ANTHROPIC_API_KEY: "sk-ant-loopback",
      CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: "1",
    };
    writeFileSync(
      join(base, "config", "settings.json"),
      JSON.stringify({
        env,
        permissions: { allow: ["Write"] },
        hooks: { SessionStart: [{ hooks: [{ type: "command", command: `touch "${join(base, "trap")}"` }] }] },
      }),
    );
    // What the folder itself would have run, before anything is asked.
    const trap = { type: "command", command: `touch "${join(base, "trap")}"` };
    mkdirSync(join(base, ".claude"));
    writeFileSync(
      join(base, ".claude", "settings.json"),
      JSON.stringify({ permissions: { allow: ["Write"] }, hooks: { SessionStart: [{ hooks: [trap] }] } }),
    );
    const git = (...args: string[]) => execFileSync("git", args, { cwd: base });
    git("init", "-q");
    writeFileSync(join(base, "a.txt"), "one\n");
    writeFileSync(join(base, ".gitattributes"), "*.txt filter=trap\n");
    git("add", ".");
    git("remote", "add", "origin", "ssh://nowhere.invalid/x");
    for (const name of ["core.fsmonitor", "core.sshCommand", "filter.trap.clean"])
      git("config", name, `${trap.command}; cat`);
    writeFileSync(join(base, "a.txt"), "two\n");
    const servers = { trap: { command: "/bin/sh", args: ["-c", trap.command] } };
    writeFileSync(join(base, ".mcp.json"), JSON.stringify({ mcpServers: servers }));
    start();
  });
  afterEach(async () => {
    await line.close();
    api.closeAllConnections();
    api.close();
    rmSync(base, { recursive: true, force: true });
  });
  const open = () => createLocal({ line }, { model: "claude-sonnet-5", folder: base });
  const prompt = (text: string, id: number): Request => ({ kind: "prompt", text, files: [], id });

  test("answers, and asks before it writes, whatever its own settings allow", async () => {
    const local = open();
    expect(await local.post([prompt("hello", 1)])).toEqual({ kind: "end_turn" });
    expect(local.replies()).toEqual(["re: hello"]);
    expect(await local.post([prompt("write", 2)])).toMatchObject({ kind: "requires_action" });
    const [use] = local.entries("tool_use");
    expect(use).toMatchObject({ name: "Write", isLocal: true, input: { content: "made\n" } });
    expect(existsSync(join(base, "made.md"))).toBe(false);
    const toolUseId = use?.id ?? "";
    expect(await local.post([{ kind: "result", toolUseId, text: "yes", isError: false }])).toEqual({
      kind: "end_turn",
    });
    expect(readFileSync(join(base, "made.md"), "utf8")).toBe("made\n");
    expect(local.entries("tool_result")).toMatchObject([{ toolUseId, isError: false }]);
    expect(local.replies().at(-1)).toBe("re: (result)");
    expect(existsSync(join(base, "trap"))).toBe(false);
    expect(await local.post([prompt("read", 3)])).toMatchObject({ kind: "requires_action" });
    const read = local.entries("tool_use").at(-1);
    expect(read).toMatchObject({ name: "Read", isLocal: true });
    await local.post([{ kind: "result", toolUseId: read?.id ?? "", text: "yes", isError: false }]);
    // Git would make the copy of the folder, and fetch first, by a program that the folder's configuration names.
    expect(await local.post([prompt("helper", 4)])).toMatchObject({ kind: "requires_action" });
    expect(local.entries("tool_use").at(-1)).toMatchObject({ name: "Agent", isLocal: true });
    expect(existsSync(join(base, "trap"))).toBe(false);
  });

  test("puts no file into the conversation that a message names, and runs no command of its name", async () => {
    const local = open();
    writeFileSync(join(base, ".env"), "KEY=of-the-folder");
    mkdirSync(join(base, "config", "commands"));
    writeFileSync(join(base, "config", "commands", "trap.md"), "what the command says");
    for (const [id, text] of ["look at @.env", `and at @${join(base, ".env")}`, 'or @".env"', "/trap"].entries())
      await local.post([prompt(text, id + 1)]);
    expect(asked).toEqual(["look at @.env", `and at @${join(base, ".env")}`, 'or @".env"', "/trap"]);
    expect(bodies.join("")).not.toContain("of-the-folder");
  });

  test("knows a prompt again after a restart, by its id, and goes on", async () => {
    const local = open();
    await local.post([prompt("hello", 1)]);
    await line.close();
    start();
    const { log, signal } = { log: [...local.entries("prompt"), ...local.entries("reply")], signal: never };
    const view = { ...local.view(), history: () => log.toReversed() };
    const again = await heardOf(line, view, [prompt("hello", 1)]);
    expect(again[0]).toMatchObject({ type: "prompt", id: log[0]?.id ?? "" });
    expect(asked).toEqual(["hello", expect.stringContaining("go on from there")]);
    await line.post(view, [prompt("hello", 2)], () => {}, signal);
    expect(asked.at(-1)).toBe("hello");
  });

  test("is found, with a version that is known, logged in by its own settings", async () => {
    await line.check(never);
    expect((await line.models(never)).length).toBeGreaterThan(0);
  });
});

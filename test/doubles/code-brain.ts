/** What Claude says in the double of the owner's program: a script over HTTP, one answer for each turn, step by step. */
import { chmodSync, mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { JsonValue } from "../../src/core/model.ts";
import type { Script } from "./world.ts";

/** One line of an answer. */
export type Step =
  | { readonly write: readonly string[]; readonly isWhole: boolean }
  /** Without being asked about, where no rule says otherwise. */
  | { readonly use: string; readonly input: JsonValue }
  | { readonly ask: string; readonly input: JsonValue }
  | { readonly stop: string }
  | { readonly error: string; readonly status: number | null; readonly resetsAt?: number; readonly isRetried?: boolean }
  | { readonly print: string }
  | { readonly crash: true };

export type CodeBrain = Awaited<ReturnType<typeof startCodeBrain>>;

const doublePath = join(import.meta.dir, "claude-code.ts");

/** A folder with the program (`program`), its transcripts and logins (`config`), and what it is told to say. */
export async function startCodeBrain(place?: string) {
  const base = place ?? realpathSync(mkdtempSync(join(tmpdir(), "signalman-code-")));
  const [config, program] = [join(base, "claude-config"), join(base, "claude")];
  mkdirSync(config, { recursive: true });
  writeFileSync(program, `#!/bin/sh\nexec "${process.execPath}" "${doublePath}" "$@"\n`);
  chmodSync(program, 0o755);
  let script: Script = (text) => [{ say: `re: ${text}` }];
  let isMute = false;
  const first: (readonly Step[] | "hang")[] = [];
  const prompts: string[] = [];
  const open = new Set<(step: Step) => void>();
  const waiting: PromiseWithResolvers<void>[] = [];
  const server = createServer((request, response) => {
    let body = "";
    request.on("data", (chunk: Buffer) => (body += chunk.toString()));
    request.on("end", () => {
      const { text } = JSON.parse(body) as { text: string };
      prompts.push(text);
      for (const { resolve } of waiting.splice(0)) resolve();
      const put = (step: Step): void => {
        if (!isMute) response.write(`${JSON.stringify(step)}\n`);
      };
      open.add(put);
      response.on("close", () => open.delete(put));
      response.writeHead(200).flushHeaders();
      void answer(text, put).then((isOver) => isOver && !isMute && response.end());
    });
  });
  const answer = async (text: string, put: (step: Step) => void): Promise<boolean> => {
    const before = first.shift();
    if (before === "hang") return false;
    if (before) before.forEach(put);
    else
      for (const [index, beat] of script(text).entries()) {
        if ("say" in beat) put({ write: [beat.say], isWhole: true });
        // What nothing follows but a wait is never said as a whole.
        else if ("write" in beat) put({ write: beat.write, isWhole: !("hold" in (script(text)[index + 1] ?? {})) });
        else if ("hold" in beat) await beat.hold;
        else if ("use" in beat) put(beat);
        else if ("ask" in beat) put(beat);
        else if ("call" in beat) put({ ask: beat.call, input: beat.input });
        else if ("stop" in beat) put({ stop: beat.stop.kind });
      }
    return true;
  };
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  writeFileSync(join(config, "brain"), url);
  return {
    base,
    config,
    program,
    /** The environment that leads the program here. */
    env: { ...process.env, CLAUDE_CONFIG_DIR: config },
    prompts,
    setScript: (next: Script): void => void (script = next),
    /** Instead of the script, for the next turn. */
    first: (...steps: readonly Step[]): void => void first.push(steps),
    /** The next turn gets no answer; resolves when it was asked. */
    hang(): Promise<void> {
      first.push("hang");
      waiting.push(Promise.withResolvers());
      return waiting.at(-1)?.promise ?? Promise.resolve();
    },
    /** Resolves when the next turn is asked. */
    next(): Promise<void> {
      waiting.push(Promise.withResolvers());
      return waiting.at(-1)?.promise ?? Promise.resolve();
    },
    setMute: (mute: boolean): void => void (isMute = mute),
    crash: (): void => open.forEach((put) => put({ crash: true })),
    openTurns: (): number => open.size,
    close(): Promise<void> {
      server.closeAllConnections();
      if (place === undefined) rmSync(base, { recursive: true, force: true });
      return new Promise((resolve) => server.close(() => resolve()));
    },
  };
}

/**
 * `bun test/sim/mutants.ts [--seeds N] [--only WORD]`: is the simulation any good? Plants one bug at a time in a copy of the
 * source, and looks whether a seed, or else a test of the suite, notices. Prints a table; exit code 1 where a bug was not noticed,
 * or does not fit the source any more. Not part of the test run: it takes minutes.
 */
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { spawnSync } from "node:child_process";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";

const { values } = parseArgs({
  options: {
    seeds: { type: "string", default: "200" },
    from: { type: "string", default: "1" },
    minutes: { type: "string", default: "4" },
    only: { type: "string" },
    skip: { type: "string", default: "0" },
  },
});

type Mutant = {
  readonly bug: string;
  readonly file: string;
  readonly find: string;
  readonly put: string;
};

const mutants: readonly Mutant[] = [
  {
    bug: "acknowledge before the commit",
    file: "loops/receive.ts",
    find: "const accepted = await commit(deps, account, batch, signal);\n      await deps.transport.ack(batch, accepted !== null);",
    put: "await deps.transport.ack(batch, true);\n      const accepted = await commit(deps, account, batch, signal);",
  },
  {
    bug: "acknowledge although the commit failed",
    file: "loops/receive.ts",
    find: "ack(batch, accepted !== null)",
    put: "ack(batch, true)",
  },
  {
    bug: "what was asked to be forgotten is stored: group talk without a mention",
    file: "core/inbound.ts",
    find: 'return drop("group talk without a mention");',
    put: 'return { kind: "prompt", replaces: null };',
  },
  {
    bug: "commands of strangers are answered",
    file: "core/inbound.ts",
    find: 'return isPerson(source, options.allow) ? null : "not on the allow list";',
    put: 'return isPerson(source, options.allow) || (envelope.content.kind === "text" && envelope.content.text.startsWith("/")) ? null : "not on the allow list";',
  },
  {
    bug: "identity without the device",
    file: "core/inbound.ts",
    find: "envelope.sourceDevice ?? 0",
    put: "0",
  },
  {
    bug: "identity with the time of arrival: a redelivery is a new message",
    file: "loops/receive.ts",
    find: 'inboxKey(envelope, account), "prompt"',
    put: 'inboxKey(envelope, account) + deps.clock.now(), "prompt"',
  },
  {
    bug: "a dropped message's text goes to the log",
    file: "loops/receive.ts",
    find: 'deps.log.debug("envelope dropped", { reason: decision.reason })',
    put: 'deps.log.debug("envelope dropped", { reason: decision.reason, content: envelope.content })',
  },
  {
    bug: "sent before it is sent",
    file: "loops/send.ts",
    find: "store.outbox.markSending(row.id);",
    put: "store.outbox.markSending(row.id);\n  store.outbox.markSent(row.id, row.timestamp, clock.now());",
  },
  {
    bug: "a send whose outcome is unknown is given up",
    file: "loops/send.ts",
    find: 'if (error.retry === "never") {',
    put: 'if (isUncertain || error.retry === "never") {',
  },
  {
    bug: "a transient fault ends a row",
    file: "loops/send.ts",
    find: 'if (error.retry === "never") {',
    put: 'if (error.retry === "never" || row.attempts > 2) {',
  },
  {
    bug: "a resend with another timestamp",
    file: "loops/send.ts",
    find: "timestamp: row.timestamp, body",
    put: "timestamp: row.timestamp + row.attempts, body",
  },
  {
    bug: "an unknown outcome is not counted",
    file: "loops/send.ts",
    find: 'if (isUncertain && !ownTimestamps) store.settings.count("uncertain");',
    put: "",
  },
  {
    bug: "after a restart, sends under way are not counted",
    file: "daemon.ts",
    find: "rows > 0 && !transport.capabilities.ownTimestamps",
    put: "rows < 0",
  },
  {
    bug: "the newest row of a chat is sent first",
    file: "store/outbox.ts",
    find: "chat_key = ? AND state IN ('queued', 'sending') ORDER BY id LIMIT 1",
    put: "chat_key = ? AND state IN ('queued', 'sending') ORDER BY id DESC LIMIT 1",
  },
  {
    bug: "a captcha goes on being shown after reconnect",
    file: "daemon.ts",
    find: "send.resume();",
    put: "",
  },
  {
    bug: "the newest prompt of a chat is asked first",
    file: "store/inbox.ts",
    find: "state <> 'done' AND kind = 'prompt' ORDER BY id LIMIT 1",
    put: "state <> 'done' AND kind = 'prompt' ORDER BY id DESC LIMIT 1",
  },
  {
    bug: "a prompt overtakes the command before it",
    file: "store/inbox.ts",
    find: "AND command.chat_key = inbox.chat_key AND command.id < inbox.id)",
    put: "AND command.chat_key = inbox.chat_key AND command.id < inbox.id AND 0)",
  },
  {
    bug: "one session for all chats",
    file: "store/sessions.ts",
    find: "WHERE chat_key = ? AND state = 'active'`, chatKey),",
    put: "WHERE (chat_key = ? OR 1) AND state = 'active' ORDER BY created_at`, chatKey),",
  },
  {
    bug: "a prompt of unknown fate is sent again unseen",
    file: "claude/session-turn.ts",
    find: 'if (prompt.state.kind !== "uncertain") return null;',
    put: "return null;",
  },
  {
    bug: "a reply is rendered twice",
    file: "store/sessions.ts",
    find: "    replies++;",
    put: "    if (bodies[0] && session.cursor !== null) deps.outbox.addAnswer(`reply:${session.id}:${event.id}:again`, session.id, session.chat, bodies[0], now);\n    replies++;",
  },
  {
    bug: "known events become replies again",
    file: "store/sessions.ts",
    find: "`reply:${session.id}:${event.id}:${part}`",
    put: "`reply:${session.id}:${event.id}:${part}:${now}`",
  },
  {
    bug: "the cursor runs ahead",
    file: "store/sessions.ts",
    find: "cursor = Math.max(cursor, event.at ?? 0);",
    put: "cursor = Math.max(cursor, (event.at ?? 0) + 120_000);",
  },
  {
    bug: "the second part of an answer takes the place of the first",
    file: "store/drafts.ts",
    find: "AND NOT EXISTS (SELECT 1 FROM outbox AS answer",
    put: "AND EXISTS (SELECT 1) AND NOT EXISTS (SELECT 1 FROM outbox AS answer WHERE 0 AND answer.id = 0) AND NOT EXISTS (SELECT 1 FROM outbox AS answer WHERE 0 AND",
  },
  {
    bug: "a draft that waits is not taken back",
    file: "store/drafts.ts",
    find: "WHERE id = ? AND state = 'queued' AND attempts = 0",
    put: "WHERE id = ? AND state = 'queued' AND attempts < 0",
  },
  {
    bug: "an answer edits a draft that never got out",
    file: "loops/send.ts",
    find: 'if (target.state === "failed") return { kind: "text"',
    put: 'if (target.attempts < 0) return { kind: "text"',
  },
  {
    bug: "a draft is left standing when its prompt is dropped",
    file: "loops/presence.ts",
    find: "store.outbox.addAnswer(`stopped:${id}`",
    put: "if (id < 0) store.outbox.addAnswer(`stopped:${id}`",
  },
  {
    bug: "a sync takes the remote value over a newer local one",
    file: "loops/sync.ts",
    find: "{ local: session.stamps, remote: theirs.stamps }",
    put: "{ local: {}, remote: theirs.stamps }",
  },
  {
    bug: "a sync takes the local value over a newer remote one",
    file: "core/hlc.ts",
    find: "(a < b ? -1 : a > b ? 1 : 0)",
    put: "(a < b ? 1 : a > b ? -1 : 0)",
  },
  {
    bug: "no sync at a reconnect",
    file: "loops/sync.ts",
    find: "const todo = remote ? store.sessions.toSync(clock.now() - recentMs, sweepMax) : [];",
    put: "const todo = remote ? store.sessions.toSync(clock.now() + recentMs, 0) : [];",
  },
  {
    bug: "a sync does not write back",
    file: "loops/sync.ts",
    find: "if (await push(deps,",
    put: "if (deps === null && await push(deps,",
  },
  {
    bug: "events of a sync do not become messages",
    file: "loops/sync.ts",
    find: "const applied = store.sessions.apply(session.id, events, clock.now());",
    put: "const applied = store.sessions.apply(session.id, events.slice(0, -2), clock.now());",
  },
  {
    bug: "prompts of a session that is gone are forgotten",
    file: "loops/sync.ts",
    find: "if (row.sessionId === session.id) store.inbox.markNew(row.id);",
    put: 'if (row.sessionId === session.id) store.inbox.finish(row.id, "answered", now);',
  },
  {
    bug: "a prompt that was taken back is asked all the same",
    file: "loops/presence.ts",
    find: 'store.inbox.finish(id, "cancelled", clock.now());',
    put: 'if (id % 2 === 0) store.inbox.finish(id, "cancelled", clock.now());',
  },
  {
    bug: "a turn that died counts as answered",
    file: "loops/turn.ts",
    find: 'if (progress.kind === "flushed") store.inbox.markNew(row.id);',
    put: 'if (progress.kind === "flushed") return store.inbox.finish(row.id, "answered", clock.now()), "ended";',
  },
  {
    bug: "the row ends before its reply is stored",
    file: "loops/turn.ts",
    find: "const { added } = store.sessions.apply(session.id, events, now);",
    put: 'const { added } = store.sessions.apply(session.id, progress.kind === "ended" ? [] : events, now);',
  },
  {
    bug: "anybody in a group may say yes to a tool",
    file: "core/inbound.ts",
    find: 'if (envelope.chat?.kind !== "group") return true;',
    put: "if (envelope.chat !== null) return true;",
  },
  {
    bug: "an open question never ends",
    file: "loops/control.ts",
    find: "await approve(deps, chatKey, false, null, signal);",
    put: "",
  },
  {
    bug: "CONNECTED without proof",
    file: "core/connection.ts",
    find: "staleAfterMs: 90_000",
    put: "staleAfterMs: 900_000",
  },
  {
    bug: "the backoff starts over at every connect",
    file: "core/connection.ts",
    find: "stableAfterMs: 30_000",
    put: "stableAfterMs: 0",
  },
  {
    bug: "a clock that was set back makes rows wait for hours",
    file: "daemon.ts",
    find: "if (isClockSet) soon(log, hasten);",
    put: "",
  },
  {
    bug: "a rate limit is over at once",
    file: "core/backoff.ts",
    find: "return Math.max(serverMinimumMs(retryAfterMs), own);",
    put: "return own;",
  },
];

const root = join(import.meta.dirname, "../..");
const env = { ...process.env, FORCE_COLOR: "0", NO_COLOR: "1" };

/** Runs a command of the copy; null where it went well, else what it said. */
function complaint(cwd: string, args: readonly string[], seconds: number): string | null {
  const { status, stdout, stderr, error } = spawnSync(process.execPath, args, {
    cwd,
    env,
    encoding: "utf8",
    timeout: seconds * 1_000,
    killSignal: "SIGKILL",
  });
  if (status === 0) return null;
  const said = /SEED=\d+ .*|\(fail\) .*/u.exec(`${stdout}\n${stderr}`)?.[0];
  return (said ?? (error ? "it hangs" : `exit ${status}`)).slice(0, 150);
}

/** The tests that are quick and know nothing of the outside. */
const suite = [
  "test",
  "--timeout",
  "60000",
  "--bail",
  "test/core",
  "test/loops",
  "test/store",
  "test/claude",
  "test/status",
];

function judge(copy: string, { file, find, put }: Mutant): string {
  const path = join(copy, "src", file);
  const source = readFileSync(path, "utf8");
  if (source.split(find).length < 2) return "**does not fit the source any more**";
  writeFileSync(
    path,
    source.replaceAll(find, () => put),
  );
  try {
    const { seeds, from, minutes } = values;
    const campaign = ["test/sim/main.ts", "--seeds", seeds, "--from", from, "--minutes", minutes, "--failures", "1"];
    const seen = complaint(copy, campaign, 300);
    if (seen !== null) return `simulation: ${seen}`;
    const tested = complaint(copy, suite, 300);
    return tested === null ? "**not noticed**" : `test: ${tested}`;
  } finally {
    writeFileSync(path, source);
  }
}

const copy = mkdtempSync(join(tmpdir(), "signalman-mutants-"));
let missed = 0;
try {
  for (const folder of ["src", "test"]) cpSync(join(root, folder), join(copy, folder), { recursive: true });
  for (const file of ["package.json", "tsconfig.json", "bunfig.toml"]) cpSync(join(root, file), join(copy, file));
  mkdirSync(join(copy, "node_modules"), { recursive: true });
  rmSync(join(copy, "node_modules"), { recursive: true });
  symlinkSync(join(root, "node_modules"), join(copy, "node_modules"));
  console.log("| planted bug | where | noticed by |\n|---|---|---|");
  for (const mutant of mutants.slice(Number(values.skip))) {
    if (values.only !== undefined && !`${mutant.bug} ${mutant.file}`.includes(values.only)) continue;
    const verdict = judge(copy, mutant);
    if (verdict.startsWith("**")) missed++;
    console.log(`| ${mutant.bug} | ${mutant.file} | ${verdict.replaceAll("|", "/")} |`);
  }
} finally {
  rmSync(copy, { recursive: true, force: true });
}
process.exitCode = missed === 0 ? 0 : 1;

/**
 * `bun test/sim/mutants.ts [--seeds N] [--only WORD] [--after BUG] [--no-suite]`: is the simulation any good? Plants one bug at a time in a copy of the
 * source, and looks whether a seed, or else a test of the suite, notices. Prints a table; exit code 1 where a bug was not noticed,
 * or does not fit the source any more. Not part of the test run: it takes minutes.
 */
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { spawnSync } from "node:child_process";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";

const { values } = parseArgs({
  options: {
    seeds: { type: "string", default: "200" },
    from: { type: "string", default: "1" },
    minutes: { type: "string", default: "4" },
    only: { type: "string", default: "" },
    after: { type: "string", default: "" },
    "no-suite": { type: "boolean", default: false },
  },
});

/** `find` stands somewhere in src/; `put` takes its place. */
type Mutant = { readonly bug: string; readonly find: string; readonly put: string };

const mutants: readonly Mutant[] = [
  {
    bug: "acknowledge before the commit",
    find: "const accepted = await commit(deps, account, batch, signal);\n      await deps.transport.ack(batch, accepted !== null);",
    put: "await deps.transport.ack(batch, true);\n      const accepted = await commit(deps, account, batch, signal);",
  },
  {
    bug: "acknowledge although the commit failed",
    find: "ack(batch, accepted !== null)",
    put: "ack(batch, true)",
  },
  {
    bug: "what was asked to be forgotten is stored: group talk without a mention",
    find: 'return drop("group talk without a mention");',
    put: 'return { kind: "prompt", replaces: null };',
  },
  {
    bug: "commands of strangers are answered",
    find: 'return isPerson(source, options.allow) ? null : "not on the allow list";',
    put: 'return isPerson(source, options.allow) || (envelope.content.kind === "text" && envelope.content.text.startsWith("/")) ? null : "not on the allow list";',
  },
  {
    bug: "identity without the device",
    find: "envelope.sourceDevice ?? 0",
    put: "0",
  },
  {
    bug: "identity with the time of arrival: a redelivery is a new message",
    find: 'inboxKey(envelope, account), "prompt"',
    put: 'inboxKey(envelope, account) + deps.clock.now(), "prompt"',
  },
  {
    bug: "a dropped message's text goes to the log",
    find: 'deps.log.debug("envelope dropped", { reason: decision.reason })',
    put: 'deps.log.debug("envelope dropped", { reason: decision.reason, content: envelope.content })',
  },
  {
    bug: "sent before it is sent",
    find: 'if (row.state !== "sending") mark(row);',
    put: 'if (row.state !== "sending") mark(row);\n  store.outbox.markSent(row.id, row.timestamp, clock.now());',
  },
  {
    bug: "a send whose outcome is unknown is given up",
    find: 'if (error.retry === "never") {',
    put: 'if (isUncertain || error.retry === "never") {',
  },
  {
    bug: "a transient fault ends a row",
    find: 'if (error.retry === "never") {',
    put: 'if (error.retry === "never" || row.attempts > 2) {',
  },
  {
    bug: "a resend with another timestamp",
    find: "timestamp: row.timestamp, body",
    put: "timestamp: row.timestamp + row.attempts, body",
  },
  {
    bug: "an unknown outcome is not counted",
    find: 'if (isUncertain && !ownTimestamps) store.settings.count("uncertain");',
    put: "",
  },
  {
    bug: "after a restart, sends under way are not counted",
    find: "rows > 0 && !transport.capabilities.ownTimestamps",
    put: "rows < 0",
  },
  {
    bug: "the newest row of a chat is sent first",
    find: "AND state IN ('queued', 'sending') ORDER BY id LIMIT 1",
    put: "AND state IN ('queued', 'sending') ORDER BY id DESC LIMIT 1",
  },
  {
    bug: "a captcha goes on being shown after reconnect",
    find: "send.resume();",
    put: "",
  },
  {
    bug: "the newest prompt of a chat is asked first",
    find: "kind <> 'approval' ORDER BY id LIMIT 1",
    put: "kind <> 'approval' ORDER BY id DESC LIMIT 1",
  },
  {
    bug: "a prompt overtakes the command before it",
    find: "kind <> 'approval' ORDER BY id LIMIT 1",
    put: "kind = 'prompt' ORDER BY id LIMIT 1",
  },
  {
    bug: "one session for all chats",
    find: "one`WHERE chat_key = ${chat} AND state = 'active'`",
    put: "one`WHERE (chat_key = ${chat} OR 1) AND state = 'active' ORDER BY created_at`",
  },
  {
    bug: "a prompt of unknown fate is sent again unseen",
    find: 'if (state.kind !== "uncertain") return null;',
    put: "return null;",
  },
  {
    bug: "a reply is rendered twice",
    find: "    replies++;",
    put: "    for (const body of render(event.text).slice(0, 1)) outbox.addAnswer(`reply:${session.id}:${event.id}:again`, session.id, session.chat, body, now);\n    replies++;",
  },
  {
    bug: "known events become replies again",
    find: "`reply:${session.id}:${event.id}:${part}`",
    put: "`reply:${session.id}:${event.id}:${part}:${now}`",
  },
  {
    bug: "the cursor runs ahead",
    find: "Math.max(latest, at ?? 0), session.cursor",
    put: "Math.max(latest, (at ?? 0) + 120_000), session.cursor",
  },
  {
    bug: "the second part of an answer takes the place of the first",
    find: "AND answer.id > draft.id",
    put: "AND answer.id > draft.id AND 0",
  },
  {
    bug: "what is on its way is taken back all the same",
    find: "WHERE id = ${id} AND state = 'queued' AND attempts = 0` > 0",
    put: "WHERE id = ${id}` > 0",
  },
  {
    bug: "an answer edits a draft that never got out",
    find: 'if (target.state === "failed") return { kind: "text"',
    put: 'if (target.attempts < 0) return { kind: "text"',
  },
  {
    bug: "a draft is left standing when its prompt is dropped",
    find: "store.outbox.addAnswer(`stopped:${id}`",
    put: "if (id < 0) store.outbox.addAnswer(`stopped:${id}`",
  },
  {
    bug: "a sync takes the remote value over a newer local one",
    find: "{ local: session.stamps, remote: theirs.stamps }",
    put: "{ local: {}, remote: theirs.stamps }",
  },
  {
    bug: "a sync takes the local value over a newer remote one",
    find: "stampHere > stampThere : localWins",
    put: 'stampHere !== "" : localWins',
  },
  {
    bug: "no sync at a reconnect",
    find: "const todo = remote ? store.sessions.toSync(clock.now() - recentMs, sweepMax) : [];",
    put: "const todo = remote ? store.sessions.toSync(clock.now() + recentMs, 0) : [];",
  },
  {
    bug: "a sync does not write back",
    find: "if (await push(deps,",
    put: "if (deps === null && await push(deps,",
  },
  {
    bug: "events of a sync do not become messages",
    find: "const applied = store.sessions.apply(session.id, events, clock.now());",
    put: "const applied = store.sessions.apply(session.id, events.slice(0, -2), clock.now());",
  },
  {
    bug: "prompts of a session that is gone are forgotten",
    find: "if (row.sessionId === session.id) store.inbox.markNew(row.id);",
    put: 'if (row.sessionId === session.id) store.inbox.finish(row.id, "answered", now);',
  },
  {
    bug: "a prompt that was taken back is asked all the same",
    find: 'store.inbox.finish(id, "cancelled", clock.now());',
    put: 'if (id % 2 === 0) store.inbox.finish(id, "cancelled", clock.now());',
  },
  {
    bug: "a turn that died counts as answered",
    find: 'if (stop.kind === "retries_exhausted") return { kind: "flushed", facts };',
    put: 'if (stop.kind === "retries_exhausted") return { kind: "ended", stop, facts };',
  },
  {
    bug: "the row ends before its reply is stored",
    find: "const applied = store.sessions.apply(session.id, events, now);",
    put: 'const applied = store.sessions.apply(session.id, progress.kind === "ended" ? events.slice(-1) : events, now);',
  },
  {
    bug: "anybody in a group may say yes to a tool",
    find: 'if (envelope.chat?.kind !== "group") return true;',
    put: "if (envelope.chat !== null) return true;",
  },
  {
    bug: "an open question never ends",
    find: "await approve(deps, chatKey, false, null, signal);",
    put: "",
  },
  {
    bug: "CONNECTED without proof",
    find: "lastProofAt: at, proofDueAt: at + staleAfterMs",
    put: "lastProofAt: at, proofDueAt: at + 10 * staleAfterMs",
  },
  {
    bug: "the backoff starts over at every connect",
    find: "stableAfterMs: 30_000",
    put: "stableAfterMs: 0",
  },
  {
    bug: "a clock that was set back makes rows wait for hours",
    find: "if (isClockSet) soon(log, hasten);",
    put: "",
  },
  {
    bug: "after a send the disk breaks, and the row is sent again",
    find: 'deps.log.error("outbox not writable"',
    put: 'throw error; deps.log.error("outbox not writable"',
  },
  {
    bug: "when a prompt was asked is kept in our own time",
    find: "clock.now() + (backend.remote?.skewMs() ?? 0)",
    put: "clock.now()",
  },
  {
    bug: "a reply of the same millisecond passes for the answer to the prompt after it",
    find: "OR (reply.at = prompt.at AND reply.seq > prompt.seq)",
    put: "OR reply.at = prompt.at",
  },
  {
    bug: "the outbox shows a rate limit that is over",
    find: "if (pause !== null && pause.until <= clock.monotonic()) setPause(null, 0);",
    put: "",
  },
  {
    bug: "a clock that was set back is forgotten where the disk is full in that moment",
    find: "    store.hasten(clock.now());\n    isClockSet = false;",
    put: "    isClockSet = false;\n    store.hasten(clock.now());",
  },
  {
    bug: "a prompt that was taken back comes to life as its session dies",
    find: "iif(state = 'waiting', 0, not_before) WHERE id = ${id} AND state <> 'done'",
    put: "iif(state = 'waiting', 0, not_before) WHERE id = ${id}",
  },
  {
    bug: "with the account unlinked, sends are tried again without a wait",
    find: "isCaptcha ? 0 : clock.now() + wait",
    put: 'error.retry === "person" ? 0 : clock.now() + wait',
  },
  {
    bug: "a send that was on its way lifts the rate limit of another",
    find: 'deps.notices.emit("sent", { at: clock.now() });',
    put: 'setPause(null, 0);\n    deps.notices.emit("sent", { at: clock.now() });',
  },
  {
    bug: "a prompt dies of a stop of the same millisecond, before it",
    find: "facts.stopAt !== null && at < facts.stopAt",
    put: "facts.stopAt !== null && at <= facts.stopAt",
  },
  {
    bug: "a refused confirmation counts as given",
    find: "signal);\n      deps.confirmed.add(id);",
    put: "signal).finally(() => deps.confirmed.add(id));",
  },
  {
    bug: "a rate limit is over at once",
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

/** Who notices, or null; `where` takes the file that was changed. */
function judge(copy: string, { find, put }: Mutant): { where: string; verdict: string; isNoticed: boolean } {
  const where = files.find((file) => readFileSync(join(copy, "src", file), "utf8").includes(find));
  if (where === undefined)
    return { where: "nowhere", verdict: "**does not fit the source any more**", isNoticed: false };
  const path = join(copy, "src", where);
  const source = readFileSync(path, "utf8");
  writeFileSync(
    path,
    source.replaceAll(find, () => put),
  );
  try {
    const { seeds, from, minutes } = values;
    const campaign = ["test/sim/main.ts", "--seeds", seeds, "--from", from, "--minutes", minutes, "--failures", "1"];
    const seen = complaint(copy, campaign, 300);
    if (seen !== null) return { where, verdict: `simulation: ${seen}`, isNoticed: true };
    const tested = values["no-suite"] ? null : complaint(copy, suite, 300);
    return { where, verdict: tested === null ? "**not noticed**" : `test: ${tested}`, isNoticed: tested !== null };
  } finally {
    writeFileSync(path, source);
  }
}

const files = readdirSync(join(root, "src"), { recursive: true, encoding: "utf8" }).filter((file) =>
  file.endsWith(".ts"),
);
const copy = mkdtempSync(join(tmpdir(), "signalman-mutants-"));
let missed = 0;
try {
  for (const folder of ["src", "test"]) cpSync(join(root, folder), join(copy, folder), { recursive: true });
  for (const file of ["package.json", "tsconfig.json", "bunfig.toml"]) cpSync(join(root, file), join(copy, file));
  symlinkSync(join(root, "node_modules"), join(copy, "node_modules"));
  console.log("| planted bug | where | noticed by |\n|---|---|---|");
  const first = Math.max(0, mutants.findIndex(({ bug }) => bug === values.after) + 1);
  for (const mutant of mutants.slice(first).filter(({ bug }) => bug.includes(values.only))) {
    const { where, verdict, isNoticed } = judge(copy, mutant);
    if (!isNoticed) missed++;
    console.log(`| ${mutant.bug} | ${where} | ${verdict.replaceAll("|", "/")} |`);
  }
} finally {
  rmSync(copy, { recursive: true, force: true });
}
process.exitCode = missed === 0 ? 0 : 1;

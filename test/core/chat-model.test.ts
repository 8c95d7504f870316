/**
 * The chat over a real database, with a Claude of a few lines: facts come in any order, as `loops/mirror.ts` would bring them.
 *
 * After each step: `checkChat` holds, what is over never changes, what ended was said or shown, nothing is asked twice, each reply is
 * said once. In the end everything drains.
 */
import { expect, test } from "bun:test";
import fc from "fast-check";
import type { Request } from "../../src/claude/line.ts";
import { BridgeError, toFault, type ErrorCode } from "../../src/core/errors.ts";
import type { SessionEvent, StopReason } from "../../src/core/model.ts";
import { findUncertain, inLogOrder, progressOf, trackAll } from "../../src/core/turn.ts";
import type { PostRow } from "../../src/store/posts.ts";
import { createChatRig, noteOf, owner, textContent } from "../doubles/chats.ts";

const seed = Number(process.env["SEED"] ?? Math.floor(Math.random() * 2 ** 31));
const runs = Number(process.env["RUNS"] ?? 25);

/** A session at Claude. */
type There = {
  /** As a stream shows it: a prompt comes twice, queued and processed. */
  readonly stream: SessionEvent[];
  /** How much of it has been heard. */
  heard: number;
  queued: string[];
  asks: string[];
  isRunning: boolean;
  isOver: boolean;
  /** Of prompts that will never be answered. */
  readonly dead: Set<string>;
};

function createTheirs() {
  const sessions = new Map<string, There>();
  /** Which message of a person an entry asks. */
  const askedBy = new Map<string, number>();
  let count = 0;
  let time = 1_786_953_700_000;
  const of = (id: string): There => {
    const known = sessions.get(id);
    if (known) return known;
    const fresh: There = {
      stream: [],
      heard: 0,
      queued: [],
      asks: [],
      isRunning: false,
      isOver: false,
      dead: new Set(),
    };
    sessions.set(id, fresh);
    return fresh;
  };
  type Said = SessionEvent extends infer E ? (E extends SessionEvent ? Omit<E, "id" | "at"> : never) : never;
  const add = ({ stream }: There, said: Said, id = `e${++count}`, at: number | null = time): string => {
    stream.push({ ...said, id, at });
    return id;
  };
  const stop = (there: There, reason: StopReason): void => {
    there.isRunning = false;
    add(there, { type: "idle", stop: reason });
  };
  return {
    sessions,
    askedBy,
    of,
    /** Ties are as likely as not. */
    pass: (ms: number): void => void (time += ms),
    ask(there: There, inboxId: number, text: string): string {
      const id = add(there, { type: "prompt", text }, undefined, null);
      there.queued.push(id);
      askedBy.set(id, inboxId);
      return id;
    },
    /** Takes up everything that is queued, in one turn. */
    takeUp(there: There): void {
      if (there.isOver || there.asks.length > 0 || there.queued.length === 0) return;
      if (!there.isRunning) add(there, { type: "running" });
      there.isRunning = true;
      for (const id of there.queued.splice(0)) {
        const prompt = there.stream.find((event) => event.id === id);
        if (prompt?.type === "prompt") add(there, { type: "prompt", text: prompt.text }, id);
      }
    },
    say(there: There): void {
      if (there.isRunning) add(there, { type: "reply", text: `answer ${count}` });
    },
    question(there: There): void {
      if (!there.isRunning) return;
      const use = { type: "tool_use", name: "bash", input: null, isAsk: true, isLocal: false } as const;
      there.asks = [add(there, use), ...(count % 3 === 0 ? [add(there, use)] : [])];
      stop(there, { kind: "requires_action", eventIds: there.asks });
    },
    finish: (there: There): void => void (there.isRunning && stop(there, { kind: "end_turn" })),
    flush(there: There): void {
      if (!there.isRunning) return;
      add(there, { type: "error", code: "model_overloaded_error", retry: "exhausted" });
      stop(there, { kind: "retries_exhausted" });
      for (const id of there.queued.splice(0)) there.dead.add(id);
    },
    confirm(there: There, toolUseId: string, isAllowed: boolean): void {
      if (!there.asks.includes(toolUseId)) return;
      there.asks = there.asks.filter((id) => id !== toolUseId);
      add(there, { type: "confirmation", toolUseId, isAllowed });
      if (there.asks.length > 0) return;
      there.isRunning = true;
      add(there, { type: "running" });
    },
    interrupt(there: There): void {
      there.asks = [];
      if (there.isRunning || there.stream.at(-1)?.type === "idle") stop(there, { kind: "end_turn" });
    },
    end(there: There): void {
      if (there.isOver) return;
      there.isOver = true;
      there.isRunning = false;
      add(there, { type: "terminated" });
    },
  };
}

/** The log as a listing has it: what was processed stands where it was processed. */
const listing = ({ stream }: There): SessionEvent[] =>
  inLogOrder(stream.filter(({ id }, index) => !stream.slice(index + 1).some((later) => later.id === id)));

const isFlush = (event: SessionEvent): boolean => event.type === "idle" && event.stop.kind === "retries_exhausted";

async function createWorld() {
  const rig = await createChatRig({ emojiOf: (stage) => (stage === "cleared" ? null : stage) });
  const theirs = createTheirs();
  const ended = new Map<number, string>();
  const written: number[] = [];
  /** Messages that were taken back: there is nothing to be shown at them. */
  const isGone = new Set<number>();
  const sent = { at: rig.now };

  const active = (): string | null => rig.store.sessions.active("self")?.id ?? null;
  const deliver = (
    id: string,
    events: readonly SessionEvent[],
    posted: { id: number; eventId: string | null }[] = [],
  ) => {
    const session = rig.store.sessions.get(id);
    if (session?.state === "active" || posted.length > 0) if (session) rig.chats.log(session.id, events, posted);
  };
  const failOf = (post: PostRow, code: ErrorCode): void => {
    const fault = toFault(new BridgeError(code, "it failed"));
    if (post.kind === "prompt")
      rig.settle({ type: "failed", id: Number(post.subject), fault, hasSpoken: false, isLost: false });
  };
  const write = (content: Parameters<typeof noteOf>[0], sentAt = (sent.at = Math.max(sent.at + 1, rig.now))): void => {
    const id = rig.take(noteOf(content, sentAt));
    if (
      id !== null &&
      typeof content !== "string" &&
      content.kind === "edit" &&
      rig.store.inbox.get(id)?.state === "done"
    )
      isGone.add(id);
    written.push(sentAt);
  };
  const nth = <T>(list: readonly T[], n: number): T | undefined => list[n % Math.max(1, list.length)];
  /** Each message that this time names will be withdrawn by what comes. */
  const takeBack = (sentAt: number): void => {
    for (const { id, versions } of rig.store.inbox.openPrompts("self")) if (versions.includes(sentAt)) isGone.add(id);
  };

  const acts = {
    say: (n: number): void => write(["ok", "do it", "and now something longer than any answer"][n % 3] ?? ""),
    edit(n: number): void {
      const target = nth(written, n);
      if (target === undefined) return;
      takeBack(target);
      write({ kind: "edit", targetSentAt: target, body: textContent(n % 2 === 0 ? "ok" : `better ${n}`) });
      // The same words: nothing was taken back.
      for (const { id } of rig.store.inbox.openPrompts("self")) isGone.delete(id);
    },
    remove(n: number): void {
      const target = nth(written, n);
      if (target === undefined) return;
      takeBack(target);
      write({ kind: "delete", targetSentAt: target });
    },
    command: (n: number): void =>
      write(
        [
          "/stop",
          "/new",
          "/skip",
          "/new words",
          "/resume 2",
          "/resume 1",
          "/forget",
          "/verbose",
          "/retry",
          "/status",
          "/ask",
        ][n % 11] ?? "",
      ),
    answer(n: number): void {
      const shown = nth(rig.view().asks, n)?.shown[0]?.sentAt ?? 5;
      const emoji = n % 2 === 0 ? "👍" : "👎";
      if (n % 3 > 0) write(["yes", "no", "always", "no, not that"][n % 4] ?? "yes");
      else write({ kind: "reaction", emoji, targetAuthor: owner, targetSentAt: shown, isRemove: false });
    },
    /** What is queued goes out; its echo comes, or is lost, or it never arrived. */
    post(n: number): void {
      const id = nth(rig.store.posts.dueSessions(), n);
      if (id !== undefined) postNext(id, n);
    },
    lookUp(n: number): void {
      const id = nth([...theirs.sessions.keys()], n);
      if (id !== undefined) lookUp(id);
    },
    /** Entries come over a stream, some of them once more. */
    hear(n: number, back: number): void {
      const id = nth([...theirs.sessions.keys()], n);
      const there = id === undefined ? undefined : theirs.sessions.get(id);
      if (id === undefined || !there) return;
      const from = Math.max(0, there.heard - back);
      there.heard = Math.min(there.stream.length, there.heard + 1 + (n % 5));
      const events = there.stream.slice(from, there.heard);
      // What a flush left in the queue is known by the log alone.
      deliver(id, events.some(isFlush) ? [...events, ...listing(there)] : events);
    },
    list(n: number): void {
      const id = nth([...theirs.sessions.keys()], n);
      if (id !== undefined) list(id);
    },
    claude(n: number, ms: number): void {
      const there = nth([...theirs.sessions.values()], n);
      if (!there || there.isOver) return;
      theirs.pass(ms);
      const { takeUp, say, question, finish, flush } = theirs;
      for (const act of [takeUp, say, question, finish, takeUp, say, finish, flush].slice(n % 8, (n % 8) + 2))
        act(there);
    },
    fail(n: number): void {
      const post = rig.view().head[0]?.post;
      const row = post && rig.store.posts.ofPrompt(rig.view().head[0]?.id ?? 0);
      const codes = [
        "claude_overloaded",
        "claude_stream_lost",
        "claude_request",
        "claude_key",
        "claude_timeout",
      ] as const;
      if (row) failOf(row, codes[n % codes.length] ?? "claude_overloaded");
    },
    gone(n: number): void {
      const id = active();
      if (id === null || n % 4 > 0) return;
      theirs.end(theirs.of(id));
      const session = rig.store.sessions.get(id);
      if (n % 8 > 0) list(id);
      else if (session) rig.settle({ type: "gone", session, isElsewhere: n % 16 === 0 });
    },
    expire(n: number): void {
      const askIds = rig.view().asks.map(({ use }) => use.id);
      if (askIds.length > 0) rig.settle({ type: "expired", askIds, isLast: n % 2 === 0 });
    },
    send(n: number): void {
      const head = rig.store.outbox.head("self") ?? rig.store.outbox.nextMark("self");
      if (head === null) return;
      rig.store.outbox.markSending(head.id, rig.now);
      if (n % 5 === 0) rig.store.outbox.requeue(head.id, head.attempts + 1, n % 2 === 0);
      else if (n % 7 === 0) rig.store.outbox.markFailed(head.id, "send_refused", rig.now);
      else rig.store.outbox.markSent(head.id, head.timestamp, rig.now);
    },
    preview(n: number): void {
      const [prompt] = rig.store.inbox.head("self");
      if (prompt)
        rig.store.drafts.addDraft(prompt.id, { kind: "self" }, { text: `preview ${n} …`, styles: [] }, rig.now);
    },
    back: (): void => rig.chats.tellAll({ type: "back" }),
    restart: (): Promise<void> => rig.restart(),
  };

  function postNext(id: string, n: number): void {
    const queued = rig.store.posts.open(id).filter(({ state }) => state === "queued");
    const post = queued.find(({ kind }) => kind !== "prompt") ?? queued[0];
    const session = rig.store.sessions.get(id);
    if (!post || !session) return;
    const there = theirs.of(id);
    if (session.state === "ended" || there.isOver) return over(id, there);
    if (post.kind === "prompt" && there.asks.length > 0) return failOf(post, "claude_busy");
    const request: Request = post.request ?? { kind: "prompt", text: textOf(post), files: [] };
    rig.store.posts.markPosting(post.id, 0, post.request === null ? request : null);
    if (n % 7 === 0) return failOf(post, "claude_unreachable");
    if (n % 11 === 0 && request.kind !== "prompt") {
      const fault = toFault(new BridgeError("claude_request", "it is not taken"));
      return rig.chats.refused({ ...post, request }, fault);
    }
    const echo = request.kind === "prompt" ? askOnce(there, post, textOf(post)) : null;
    if (request.kind === "confirm") theirs.confirm(there, request.toolUseId, request.isAllowed);
    if (request.kind === "interrupt") theirs.interrupt(there);
    if (n % 5 === 0) return failOf(post, "claude_stream_lost");
    const events = there.stream.filter((event) => event.id === echo).slice(0, 1);
    if (rig.store.posts.isOpen(post.id)) deliver(id, events, [{ id: post.id, eventId: echo }]);
  }
  const textOf = ({ subject }: PostRow): string => wordsOf(Number(subject));
  const wordsOf = (id: number): string => {
    const content = rig.store.inbox.get(id)?.envelope.content;
    return content?.kind === "text" ? content.text : content?.kind === "edit" ? content.body.text : "";
  };
  /** Rule 5: no prompt goes out while another copy of it may be answered. */
  function askOnce(there: There, { subject }: PostRow, text: string): string {
    for (const other of theirs.sessions.values())
      for (const event of new Set(other.stream.map(({ id }) => id))) {
        if (theirs.askedBy.get(event) !== Number(subject) || other.isOver || other.dead.has(event)) continue;
        const isFlushed = trackAll(progressOf(event), other.stream).kind === "flushed";
        if (!isFlushed) throw new Error(`Prompt ${subject} is asked twice: ${event}`);
      }
    return theirs.ask(there, Number(subject), text);
  }
  /** What a line does with a session that is over: what is queued there has nothing left to end. */
  function over(id: string, there: There): void {
    const session = rig.store.sessions.get(id);
    if (session?.state === "active") return void rig.settle({ type: "gone", session, isElsewhere: !there.isOver });
    for (const post of rig.store.posts.open(id)) {
      if (post.kind === "interrupt") theirs.interrupt(there);
      rig.store.posts.finish(post.id);
    }
  }
  function lookUp(id: string): void {
    const there = theirs.of(id);
    const session = rig.store.sessions.get(id);
    if (!session) return;
    if (session.state === "ended" || there.isOver) return over(id, there);
    list(id);
    for (const post of rig.store.posts.open(id).filter(({ state }) => state === "posting")) {
      const found = find(id, there, post);
      if (found === undefined) rig.store.posts.markQueued(post.id);
      else
        deliver(
          id,
          listing(there).filter((event) => event.id === found),
          [{ id: post.id, eventId: found }],
        );
    }
    // What rests there although our prompt seems queued will never be taken up.
    const posted = rig.store.posts.open(id).find(({ state, kind }) => kind === "prompt" && state === "posted");
    if (posted?.eventId && there.dead.has(posted.eventId)) {
      if (rig.store.log.turn(id, posted.eventId).kind === "queued") rig.store.posts.markQueued(posted.id);
    }
  }
  function find(id: string, there: There, { kind, request }: PostRow): string | null | undefined {
    if (kind === "interrupt") return undefined;
    if (request?.kind === "confirm") return rig.store.log.isAnswered(id, request.toolUseId) ? null : undefined;
    if (request?.kind !== "prompt") return undefined;
    const taken = new Set(rig.store.posts.mappedEventIds(id));
    for (;;) {
      const found = findUncertain(request.text, 0, listing(there), taken);
      if (found === null) return undefined;
      const isDead = trackAll(progressOf(found), there.stream).kind === "flushed" || there.dead.has(found);
      if (!isDead) return found;
      taken.add(found);
    }
  }
  function list(id: string): void {
    const there = theirs.of(id);
    there.heard = there.stream.length;
    deliver(id, listing(there));
  }

  /** Everything that must hold whenever nothing is being written. */
  function check(): void {
    const { db, outbox } = rig.store;
    const rows = db.all<{ id: number; kind: string; state: string; outcome: string | null; done_at: number | null }>(
      "SELECT id, kind, state, outcome, done_at FROM inbox ORDER BY id",
    );
    for (const { id, kind, state, outcome, done_at } of rows) {
      const end = `${outcome} at ${done_at}`;
      if (state === "open") {
        expect([id, kind, ended.get(id)]).toEqual([id, "prompt", undefined]);
        continue;
      }
      if (!ended.has(id)) isSettled(id, kind, outcome, rows.at(-1)?.id ?? 0);
      expect(ended.get(id) ?? end).toBe(end);
      ended.set(id, end);
      expect(rig.store.posts.ofPrompt(id)).toBeNull();
    }
    expect(outbox.pending().count).toBeGreaterThanOrEqual(0);
  }
  function isSettled(id: number, kind: string, outcome: string | null, newest: number): void {
    const { outbox } = rig.store;
    if (kind !== "prompt") return;
    const marks = outbox.of("mark", String(id)).filter(({ part }) => part > 0).length;
    const words = (["end", "told", "failed"] as const).filter((why) => outbox.has(why, String(id))).length;
    const isSame = outbox.of("mark", String(id)).length === 0;
    // Where its first mark did not get through there is none to take off: the command's own answer says it.
    const isCommand = outcome === "cancelled" && outbox.has("command", String(newest));
    if (marks + words === 0 && !isCommand && !isGone.has(id) && !isSame)
      throw new Error(`Prompt ${id} ended ${outcome} unseen`);
    if (outcome === "answered" && !isSame) isAnswered(id);
  }
  /**
   * The turn of some copy of it is over there. The entry of an earlier prompt with the same words, which was stopped before its echo
   * was seen, may pass for this one's where this one never arrived: to ask it might be to ask twice.
   */
  function isAnswered(id: number): void {
    const words = wordsOf(id);
    const isOver = [...theirs.sessions.values()].some(({ stream }) =>
      stream.some((event) => {
        if (event.type !== "prompt") return false;
        const askedFor = theirs.askedBy.get(event.id) ?? 0;
        if (askedFor !== id && (askedFor > id || wordsOf(askedFor) !== words)) return false;
        return trackAll(progressOf(event.id), stream).kind === "ended";
      }),
    );
    if (!isOver) throw new Error(`Prompt ${id} passes for answered, and is not`);
  }

  /** Time passes, nothing more is written, nothing fails any more. */
  function drain(): void {
    for (let round = 0; round < 400; round++) {
      rig.now += 1_000;
      const due = [...new Set([...rig.store.posts.dueSessions(), ...theirs.sessions.keys()])];
      for (const id of due) {
        const there = theirs.of(id);
        theirs.pass(1);
        lookUp(id);
        while (rig.store.posts.open(id).some(({ state }) => state === "queued")) {
          const before = rig.store.posts.open(id).length;
          postNext(id, 1);
          if (rig.store.posts.open(id).length >= before) break;
        }
        if (there.isOver) continue;
        theirs.takeUp(there);
        theirs.say(there);
        theirs.finish(there);
        list(id);
      }
      for (const { shown } of rig.view().asks) {
        const sentAt = shown[0]?.sentAt;
        if (typeof sentAt === "number")
          write({ kind: "reaction", emoji: "👍", targetAuthor: owner, targetSentAt: sentAt, isRemove: false });
      }
      while (rig.store.outbox.pending().count > 0) acts.send(1);
      const isEmpty = rig.store.inbox.pending().count === 0 && rig.store.outbox.pending().count === 0;
      if (isEmpty && rig.store.posts.dueSessions().length === 0 && !rig.store.posts.isWaiting()) return check();
    }
    const open = rig.store.db.all("SELECT * FROM posts WHERE state <> 'done'");
    throw new Error(`It does not drain: ${JSON.stringify({ open, head: rig.view().head, asks: rig.view().asks })}`);
  }
  /** Of what was heard, each reply was said once. */
  function checkReplies(): void {
    for (const [id, there] of theirs.sessions) {
      if (rig.store.sessions.get(id)?.state !== "active") continue;
      const replies = there.stream.filter(({ type }) => type === "reply");
      for (const { id: eventId } of replies)
        expect(rig.store.outbox.of("reply", { sessionId: id, id: eventId })).toHaveLength(1);
    }
  }
  return { rig, acts, check, drain, checkReplies };
}

type World = Awaited<ReturnType<typeof createWorld>>;
type Acts = World["acts"];

/** How likely each is: most of life is writing, posting and hearing. */
const weights: { readonly [Name in keyof Acts]: number } = {
  say: 6,
  edit: 2,
  remove: 1,
  command: 2,
  answer: 3,
  post: 8,
  lookUp: 4,
  hear: 8,
  list: 3,
  claude: 10,
  fail: 2,
  gone: 1,
  expire: 1,
  send: 4,
  preview: 2,
  back: 1,
  restart: 1,
};

const commands = (Object.keys(weights) as (keyof Acts)[]).flatMap((name) => {
  const arbitrary = fc.tuple(fc.nat(99), fc.nat(3)).map(([n, m]): fc.AsyncCommand<object, World> => ({
    check: () => true,
    toString: () => `${name}(${n}, ${m})`,
    async run(_, world) {
      world.rig.now += 1_000;
      await world.acts[name](n, m);
      world.check();
    },
  }));
  return Array.from({ length: weights[name] }, () => arbitrary);
});

test(`facts in any order: SEED=${seed}`, async () => {
  await fc.assert(
    fc.asyncProperty(fc.commands(commands, { maxCommands: 80, size: "max" }), async (steps) => {
      const world = await createWorld();
      try {
        await fc.asyncModelRun(() => ({ model: {}, real: world }), steps);
        world.drain();
        world.checkReplies();
      } finally {
        world.rig.close();
      }
    }),
    { seed, numRuns: runs, endOnFailure: process.env["SEED"] === undefined && runs > 500 },
  );
}, 120_000);
